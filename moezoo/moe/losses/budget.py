"""A price on what the chosen experts compute."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe import ranks
from moezoo.moe.checks import check_choice, check_positive, check_probability
from moezoo.moe.losses.shares import has_tokens
from moezoo.moe.types import Routing

GRADIENTS = ("weights", "probs")
SCOPES = ("batch", "sample")


def compute_budget_loss(
    routing: Routing,
    target: float | None = None,
    costs: Sequence[float] | None = None,
    gradient: str = "weights",
    scope: str = "batch",
    anneal: float = 0.0,
    progress: float = 1.0,
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
            those by a threshold (or, in their place, a ``soft_choice``); ``probs`` the others, where each token learns
            of all experts.
        scope: Whether the ``batch`` should meet the target on average, so that a hard sample may spend more than an
            easy one, or every ``sample`` by itself, the loss being the mean over them. A price is the same by both.
        anneal: The share of the training over which the target goes from 1 (what all tokens through the dearest expert
            spend) to ``target``, or the price from 0 to its value, both linearly.
        progress: How far training is, 0 to 1: a layer passes on what :func:`moezoo.moe.set_progress` was told.

    Raises:
        ConfigError: ``target`` is negative, ``anneal`` or ``progress`` is not in [0, 1], ``gradient`` or ``scope`` is
            unknown, or ``costs`` are not one number of at least 0 per expert, one above 0.
    """
    cost_E = torch.tensor(_checked(costs, routing.num_experts), dtype=routing.probs.dtype, device=routing.probs.device)
    done = _done(check_probability("anneal", anneal), check_probability("progress", progress))
    wanted = None if target is None else 1 + (check_positive("target", target, zero=True) - 1) * done
    whole = check_choice("scope", scope, SCOPES) == "batch"
    spent_T = _spent(routing, cost_E, check_choice("gradient", gradient, GRADIENTS))
    if whole or wanted is None:
        spent = ranks.token_mean(spent_T.sum(), routing.num_tokens, routing.ranks)
        # Without tokens nothing was to be spent.
        return spent * done if wanted is None else (spent - wanted * has_tokens(routing)).square()
    samples = routing.samples if routing.num_tokens else 0
    spent_S = spent_T.reshape(max(samples, 1), -1).sum(1) / max(routing.num_tokens // max(samples, 1), 1)
    far_S = (spent_S - wanted).square() if samples else spent_S
    return ranks.token_mean(far_S.sum(), samples, routing.ranks)


def _spent(routing: Routing, cost_E: Tensor, gradient: str) -> Tensor:
    """(T,) what each token spends, with its slope."""
    asked_for_N = torch.ones_like(routing.dropped) if routing.chosen is None else routing.chosen
    cost_N = cost_E.index_select(0, routing.expert_index)
    used_N = cost_N * asked_for_N
    if gradient == "weights" and routing.soft_choice is None:
        weight_N = routing.weight.to(cost_E.dtype)
        used_N = used_N + (weight_N - weight_N.detach()) * cost_N
    spent_T = cost_E.new_zeros(routing.num_tokens).scatter_add(0, routing.token_index, used_N)
    soft_TE = routing.probs if gradient == "probs" else routing.soft_choice
    if soft_TE is not None:
        spent_T = spent_T + ((soft_TE - soft_TE.detach()) * cost_E).sum(-1)
    return spent_T


def _done(anneal: float, progress: float) -> float:
    """The share of the annealing that is over."""
    return 1.0 if progress >= anneal else progress / anneal


def _checked(costs: Sequence[float] | None, num_experts: int) -> list[float]:
    """One cost per expert, the dearest being 1."""
    if costs is None:
        return [1.0] + [0.0] * (num_experts - 1)
    values = [check_positive(f"costs[{i}]", float(cost), zero=True) for i, cost in enumerate(costs)]
    if len(values) != num_experts or max(values) == 0:
        raise ConfigError(f"costs={values} is not allowed: it must hold {num_experts} numbers, one of them above 0.")
    return [value / max(values) for value in values]
