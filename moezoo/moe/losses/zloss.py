"""Z-losses: the router's, which keeps logits small enough for stable training, and the one on mean probabilities."""

from __future__ import annotations

from torch import Tensor

from moezoo.moe.checks import check_choice
from moezoo.moe.losses.grouped import over_groups
from moezoo.moe.losses.shares import mean_probs, token_mean
from moezoo.moe.types import Routing

KINDS = ("logsumexp", "prob_sq")


def router_z_loss(routing: Routing) -> Tensor:
    """Mean over tokens of ``logsumexp(logits)^2`` (Zoph et al. 2022, "ST-MoE", eq. 5), on the logits before noise."""
    return token_mean(routing.clean_logits.logsumexp(-1).square().sum(), routing)


@over_groups
def prob_sq_loss(routing: Routing) -> Tensor:
    """``E * mean_i(P_i^2)``, the summed squares of the experts' mean probabilities.

    A balance loss by nature, which a shift of the logits leaves as it is: 1/E for an even use, 1 for one expert.
    """
    return mean_probs(routing).square().sum(-1)


def z_loss(routing: Routing, kind: str = "logsumexp") -> Tensor:
    """A z-loss by name: ``logsumexp`` is :func:`router_z_loss`, ``prob_sq`` is :func:`prob_sq_loss`.

    Raises:
        ConfigError: ``kind`` is neither.
    """
    return router_z_loss(routing) if check_choice("kind", kind, KINDS) == "logsumexp" else prob_sq_loss(routing)
