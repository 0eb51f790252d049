"""Losses that keep the experts evenly used."""

from __future__ import annotations

from torch import Tensor

from moezoo.moe.types import Routing


def load_balancing_loss(routing: Routing, normalize_by_k: bool = True) -> Tensor:
    """``E * sum_i f_i P_i`` (Fedus et al. 2021, "Switch Transformers", eq. 4-6).

    ``f_i`` is the share of assignments that chose expert i, dropped ones included, and ``P_i`` the mean probability of
    expert i. Only P carries a gradient. An even load gives 1, one expert for everything gives E.

    Args:
        routing: T tokens, N = T * K assignments.
        normalize_by_k: ``f`` sums to one (DeepSpeed, MegaBlocks, Tutel); otherwise to K (transformers, flaxformer).
    """
    f_E = routing.counts(dropped=True) / max(_assignments(routing) if normalize_by_k else routing.num_tokens, 1)
    return routing.num_experts * (f_E * _mean_probs(routing)).sum()


def importance_loss(routing: Routing) -> Tensor:
    """Squared coefficient of variation of the summed noise-free probabilities (Riquelme et al. 2021, "V-MoE", A.2).

    ``(std(I) / mean(I))^2`` with ``I_i = sum_t softmax(clean_logits)_ti`` and the population standard deviation.
    """
    importance_E = routing.clean_logits.softmax(-1).sum(0)
    mean = importance_E.mean()
    variance = (importance_E - mean).square().mean()
    return variance / mean.square().clamp_min(1e-20)


def _assignments(routing: Routing) -> int:
    return routing.expert_index.shape[0]


def _mean_probs(routing: Routing) -> Tensor:
    return routing.probs.sum(0) / max(routing.num_tokens, 1)
