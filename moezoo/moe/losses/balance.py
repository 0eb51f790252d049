"""Losses that keep the experts evenly used."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.checks import check_bool, check_probability
from moezoo.moe.losses.grouped import over_groups
from moezoo.moe.losses.shares import (
    assigned_share,
    group_counts,
    group_mean,
    group_sum,
    has_tokens,
    mean_probs,
    squared_variation,
    token_sum,
)
from moezoo.moe.types import Routing


@over_groups
def load_balancing_loss(routing: Routing, normalize_by_k: bool = True, first_choice: bool = False) -> Tensor:
    """``E * sum_i f_i P_i`` (Fedus et al. 2021, "Switch Transformers", eq. 4-6).

    ``f_i`` is the share of assignments that chose expert i, dropped ones included, and ``P_i`` the mean probability of
    expert i. Only P carries a gradient. An even load gives 1, one expert for everything gives E.

    Args:
        routing: T tokens and their assignments, T * K for plain top-k.
        normalize_by_k: ``f`` sums to one (DeepSpeed, MegaBlocks, Tutel); otherwise to the assignments per token, which
            is K (transformers, flaxformer).
        first_choice: ``f_i`` is the share of tokens whose most probable expert is i, however many they have (Lepikhin
            et al. 2020, "GShard", algorithm 1; V-MoE's ``gshard`` loss).

    Raises:
        ConfigError: ``first_choice`` is neither ``True`` nor ``False``.
    """
    if check_bool("first_choice", first_choice):
        best_T = routing.probs.detach().sort(dim=-1, descending=True, stable=True).indices[:, 0]
        first_TE = torch.nn.functional.one_hot(best_T, routing.num_experts).to(routing.probs.dtype)
        return routing.num_experts * (group_mean(group_sum(first_TE, routing), routing) * mean_probs(routing)).sum(-1)
    f_E = assigned_share(routing) if normalize_by_k else group_mean(group_counts(routing), routing)
    return routing.num_experts * (f_E * mean_probs(routing)).sum(-1)


@over_groups
def importance_loss(routing: Routing) -> Tensor:
    """Squared coefficient of variation of the summed noise-free probabilities (Riquelme et al. 2021, "V-MoE", A.2).

    ``(std(I) / mean(I))^2`` with ``I_i = sum_t softmax(clean_logits)_ti`` and the population standard deviation.
    """
    return squared_variation(token_sum(group_sum(routing.clean_logits.softmax(-1), routing), routing))


@over_groups
def load_variance_loss(routing: Routing, target: float | None = None) -> Tensor:
    """``mean_i (P_i - target)^2``, the squared deviation of the experts' mean probability from a target.

    Args:
        routing: The routing.
        target: Probability every expert should have on average; ``None`` means 1/E, which makes this the population
            variance of the usage.

    Raises:
        ConfigError: ``target`` is not a number from 0 to 1.
    """
    target = 1 / routing.num_experts if target is None else check_probability("target", target)
    # Without tokens there is nothing to miss a target with.
    return (mean_probs(routing) - target * has_tokens(routing)).square().mean(-1)
