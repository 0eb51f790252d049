"""A price on what the chosen experts compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_positive
from moezoo.moe.losses.shares import has_tokens, mean_probs, token_mean
from moezoo.moe.types import Routing

GRADIENTS = ("weights", "probs")


def compute_budget_loss(
    routing: Routing, target: float | None = None, costs: Sequence[float] | None = None, gradient: str = "weights"
) -> Tensor:
    """``(spent - target)^2``, or ``spent`` itself as a price.

    ``spent`` is the mean cost of a token's assignments, dropped ones included, in units of the dearest expert. Choices
    have no slope, so it borrows one (straight-through) from the experts' summed weights or from their probabilities.

    Args:
        routing: The routing.
        target: What a token should spend; ``None`` makes ``spent`` the loss, and the loss's weight the price.
        costs: Of each expert, for example its FLOPs per token. ``None`` charges expert 0 alone, so that ``spent`` is
            its keep ratio: the share of tokens sent to it, as to a big expert beside a small one.
        gradient: ``weights`` suits routers whose weights have a slope for experts that were not chosen as well, as
            those by a threshold; ``probs`` the others, where each token learns of all experts.

    Raises:
        ConfigError: ``target`` is negative, ``gradient`` is neither, or ``costs`` are not one number of at least 0 per
            expert, one above 0.
    """
    cost_E = torch.tensor(_checked(costs, routing.num_experts), dtype=routing.probs.dtype, device=routing.probs.device)
    if check_choice("gradient", gradient, GRADIENTS) == "weights":
        slope_E = torch.zeros_like(cost_E).scatter_add(0, routing.expert_index, routing.weight.to(cost_E.dtype))
        slope_E = token_mean(slope_E, routing)
    else:
        slope_E = mean_probs(routing)
    used_E = token_mean(routing.counts(dropped=True), routing)
    spent = ((used_E + (slope_E - slope_E.detach())) * cost_E).sum()
    if target is None:
        return spent
    # Without tokens nothing was to be spent.
    return (spent - check_positive("target", target, zero=True) * has_tokens(routing)).square()


def _checked(costs: Sequence[float] | None, num_experts: int) -> list[float]:
    """One cost per expert, the dearest being 1."""
    if costs is None:
        return [1.0] + [0.0] * (num_experts - 1)
    values = [check_positive(f"costs[{i}]", float(cost), zero=True) for i, cost in enumerate(costs)]
    if len(values) != num_experts or max(values) == 0:
        raise ConfigError(f"costs={values} is not allowed: it must hold {num_experts} numbers, one of them above 0.")
    return [value / max(values) for value in values]
