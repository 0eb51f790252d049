"""Kullback-Leibler divergence of the experts' usage from the even one."""

from __future__ import annotations

import math

from torch import Tensor

from moezoo.moe.checks import check_choice
from moezoo.moe.losses.grouped import over_groups
from moezoo.moe.losses.shares import assigned_share, entropy, group_counts, mean_probs, token_sum
from moezoo.moe.types import Routing

KINDS = ("soft", "hard")


@over_groups
def kl_balance_loss(routing: Routing, kind: str = "soft") -> Tensor:
    """``KL(usage || uniform) = log E - H(usage)``: 0 for an even usage, log E for one expert.

    Args:
        routing: The routing.
        kind: ``soft`` takes the mean probabilities as the usage. ``hard`` takes the share of assignments, dropped ones
            included, which has no gradient of its own: it lends its slope to the mean probabilities (straight-through),
            where an idle expert counts as half an assignment, since the logarithm has no slope at zero.

    Raises:
        ConfigError: ``kind`` is neither.
    """
    if check_choice("kind", kind, KINDS) == "soft":
        return _kl(mean_probs(routing), routing)
    share_E, probs_E = assigned_share(routing), mean_probs(routing)
    half = 0.5 / token_sum(group_counts(routing).sum(-1, keepdim=True), routing).clamp_min(1)
    slope_E = share_E.clamp_min(half).log() + 1
    return _kl(share_E, routing) + (slope_E * (probs_E - probs_E.detach())).sum(-1)


def kl_counts_loss(routing: Routing) -> Tensor:
    """:func:`kl_balance_loss` of kind ``hard``."""
    return kl_balance_loss(routing, "hard")


def _kl(share_E: Tensor, routing: Routing) -> Tensor:
    # Not the plain log E: shares of no tokens sum to zero, and so does the loss.
    return share_E.sum(-1) * math.log(routing.num_experts) - entropy(share_E)
