"""A plan: the assignments of a routing sorted by expert, so that each expert's rows are contiguous."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.moe.types import Routing


@dataclass(frozen=True)
class Plan:
    """Assignments sorted by expert. ``static`` plans keep dropped rows, at the end, so that shapes are fixed."""

    token_index: Tensor
    """(N,) the token of each row."""
    expert_index: Tensor
    """(N,) the expert of each row, ascending; rows of a static plan that were dropped have the last expert's index."""
    weight: Tensor
    """(N,) zero for dropped rows."""
    counts: Tensor
    """(E,) int64 rows per expert."""
    num_tokens: int
    static: bool

    def gather(self, x_TD: Tensor) -> Tensor:
        """(N, D): each expert's rows, one expert after the other."""
        return x_TD.index_select(0, self.token_index)

    def combine(self, y_ND: Tensor) -> Tensor:
        """(T, D): every token's weighted sum over its experts; a token without one gets zero."""
        weighted_ND = y_ND * self.weight.to(y_ND.dtype)[:, None]
        out_TD = weighted_ND.new_zeros(self.num_tokens, y_ND.shape[-1])
        return out_TD.index_add(0, self.token_index, weighted_ND)


def make_plan(routing: Routing, *, static: bool) -> Plan:
    """Sort ``routing`` by expert, stably, so that equal inputs give equal sums.

    Args:
        routing: The router's decision.
        static: Keep shapes independent of the data, as ``torch.compile`` and ``torch.export`` need. Otherwise dropped
            assignments are left out of the plan and cost nothing.
    """
    E = routing.num_experts
    # Dropped assignments sort behind the last expert.
    key_N = torch.where(routing.dropped, E, routing.expert_index)
    key_N, order_N = torch.sort(key_N, stable=True)
    counts_E = torch.zeros(E + 1, dtype=torch.int64, device=key_N.device).scatter_add(0, key_N, torch.ones_like(key_N))[
        :E
    ]
    if not static:
        kept = int(counts_E.sum())
        key_N, order_N = key_N[:kept], order_N[:kept]
    weight_N = routing.weight.index_select(0, order_N)
    if static:
        weight_N = torch.where(key_N < E, weight_N, 0.0)
    return Plan(
        token_index=routing.token_index.index_select(0, order_N),
        expert_index=key_N.clamp(max=E - 1),
        weight=weight_N,
        counts=counts_E,
        num_tokens=routing.num_tokens,
        static=static,
    )
