"""Rows that are not the router's tokens: each expert may read what it computes from a source of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.dispatch.base import Plan
from moezoo.moe.dispatch.plan import AssignmentPlan, EverythingPlan
from moezoo.moe.tracing import flattened

if TYPE_CHECKING:
    from moezoo.moe.experts.base import Experts

RowSource = Callable[[Tensor | None], Tensor]
"""(n,) token indices to (n, …) rows; ``None`` asks for the rows of all tokens, in their order."""

Sources = Tensor | Sequence[RowSource | None]
"""Where each expert's rows come from: (E, T, …) rows of all tokens for each, or one function (or ``None``) for each."""


def own_sources(sources: Sources, experts: Experts) -> Sources:
    """The source of each expert, of the sources that the layer is given.

    Raises:
        InputError: They are too few or too many.
    """
    needed = experts.num_sources or experts.num_experts
    if len(sources) != needed:
        raise InputError(f"sources: {needed} are needed, one per expert or None, got {len(sources)}")
    if experts.source_of is None:
        return sources
    return sources[list(experts.source_of)] if isinstance(sources, Tensor) else [sources[i] for i in experts.source_of]


def rows_from(sources: Sources, x_TD: Tensor, plan: Plan, width: int) -> Tensor:
    """(N, ``width``) the rows of ``plan``, sorted by expert, each from its expert's source.

    Raises:
        InputError: The sources do not fit.
    """
    if not isinstance(plan, AssignmentPlan):
        raise InputError("sources= is not allowed with a router that mixes tokens: a row is no token's")
    T = x_TD.shape[0]
    if not isinstance(sources, Tensor):
        each = each_source(sources, x_TD)
        if not (plan.static or isinstance(plan, EverythingPlan)):
            tokens = plan.token_index.split(plan.sizes)
            parts = [_asked(each, e, token, len(token), width) for e, token in enumerate(tokens) if len(token)]
            return torch.cat(parts) if parts else x_TD.new_zeros(0, width)
        sources = torch.stack([_asked(each, e, None, T, width) for e in range(len(each))])
    if tuple(sources.shape[1:]) != (T, width):
        raise InputError(f"sources must be ({len(sources)}, {T}, {width}), got {tuple(sources.shape)}")
    if isinstance(plan, EverythingPlan):
        return flattened(sources)
    return sources.reshape(-1, width).index_select(0, plan.expert_index * T + plan.token_index)


def each_source(sources: Sources, x_TD: Tensor) -> list[RowSource]:
    """A function for each expert.

    Raises:
        InputError: A tensor has not a row for each token.
    """
    if not isinstance(sources, Tensor):
        return [_rows_of(x_TD) if source is None else source for source in sources]
    if sources.dim() < 2 or sources.shape[1] != len(x_TD):
        raise InputError(f"sources must be ({len(sources)}, {len(x_TD)}, …), got {tuple(sources.shape)}")
    return [_rows_of(rows) for rows in sources.unbind(0)]


def _rows_of(x_TD: Tensor) -> RowSource:
    """The rows of one tensor as a source."""
    return lambda token: x_TD if token is None else x_TD.index_select(0, token)


def _asked(each: list[RowSource], expert: int, token: Tensor | None, count: int, width: int) -> Tensor:
    rows = each[expert](token)
    if tuple(rows.shape) != (count, width):
        raise InputError(f"sources[{expert}] must give ({count}, {width}) for {count} tokens, got {tuple(rows.shape)}")
    return rows
