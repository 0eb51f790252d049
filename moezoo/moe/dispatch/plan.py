"""The plan of one call: which rows each expert computes, and how they become tokens again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from moezoo.moe.dispatch.bags import Bags, gather_rows, sum_rows
from moezoo.moe.dispatch.base import STATIC_PATHS, Plan, even_offsets
from moezoo.moe.dispatch.by_expert import Sorted, sort_by_expert
from moezoo.moe.dispatch.slots import SlotPlan
from moezoo.moe.types import Routing


@dataclass(frozen=True)
class AssignmentPlan(Plan):
    """Assignments sorted by expert. ``static`` plans keep dropped rows, at the end, so that shapes are fixed."""

    token_index: Tensor
    """(N,) the token of each row."""
    weight: Tensor
    """(N,) zero for dropped rows."""

    @cached_property
    def bags(self) -> Bags:
        """The rows of each token."""
        return Bags.of(self.token_index, self.num_tokens)

    def gather(self, x_TD: Tensor) -> Tensor:
        """(N, D): each expert's rows, one expert after the other."""
        if self.plain:
            return x_TD.index_select(0, self.token_index)
        return gather_rows(x_TD, self.token_index, self.bags)

    def by_token(self, y_ND: Tensor) -> Tensor:
        """(T, E, D): each expert's result for each token, zeros where it has none."""
        E = self.counts.shape[0]
        if self.static:  # dropped rows, which stand last, are nobody's
            kept_N = torch.arange(y_ND.shape[0], device=y_ND.device) < self.counts.sum()
            y_ND = torch.where(kept_N[:, None], y_ND, 0.0)
        out = y_ND.new_zeros(self.num_tokens * E, y_ND.shape[-1])
        return out.index_add(0, self.token_index * E + self.expert_index, y_ND).view(self.num_tokens, E, y_ND.shape[-1])

    def combine(self, y_ND: Tensor) -> Tensor:
        """(T, D): every token's weighted sum over its experts; a token without one gets zero."""
        if self.plain:
            weighted_ND = y_ND * self.weight.to(y_ND.dtype)[:, None]
            out_TD = weighted_ND.new_zeros(self.num_tokens, y_ND.shape[-1])
            return out_TD.index_add(0, self.token_index, weighted_ND)
        return sum_rows(y_ND, self.weight, self.token_index, self.bags)


@dataclass(frozen=True)
class OneEachPlan(AssignmentPlan):
    """Every token has exactly one row: sorting permutes them, or leaves them alone where one expert has them all."""

    unweighted: bool
    """Whether every weight is 1."""

    @cached_property
    def sorted_already(self) -> bool:
        """Whether all rows are one expert's, and so in the order of the tokens."""
        return max(self.sizes) == self.num_tokens

    def gather(self, x_TD: Tensor) -> Tensor:
        """(N, D): each expert's rows, one expert after the other; ``x_TD`` itself where they are so already."""
        return x_TD if self.sorted_already else x_TD.index_select(0, self.token_index)

    def combine(self, y_ND: Tensor) -> Tensor:
        """(T, D): every token's row times its weight."""
        # With gradients a weight of 1 may have a slope nonetheless.
        if torch.is_grad_enabled() or not self.unweighted:
            y_ND = y_ND * self.weight.to(y_ND.dtype)[:, None]
        if self.sorted_already:
            return y_ND
        place_N = torch.arange(self.num_tokens, device=self.token_index.device)
        return y_ND.index_select(0, torch.empty_like(place_N).scatter_(0, self.token_index, place_N))


class EverythingPlan(AssignmentPlan):
    """Every token with every expert: T rows of the first, then T of the second, …; nothing is sorted or looked up.

    What only some experts read of a plan is made when they do.
    """

    weights: Tensor
    """(T, E)."""

    def __init__(self, routing: Routing, path: str):
        T, E = routing.num_tokens, routing.num_experts
        weight_TE = routing.weight.view(T, E)
        fields = {"num_tokens": T, "path": path, "sizes": [T] * E, "weights": weight_TE}
        if torch.compiler.is_compiling():  # which drops what nothing reads, and cannot make it later
            fields |= _written_down(weight_TE)
        for name, value in fields.items():  # one by one, as compilers follow that
            object.__setattr__(self, name, value)

    @cached_property
    def _rows(self) -> dict[str, Tensor]:
        return _written_down(self.weights)

    @cached_property
    def token_index(self) -> Tensor:
        return self._rows["token_index"]

    @cached_property
    def expert_index(self) -> Tensor:
        return self._rows["expert_index"]

    @cached_property
    def weight(self) -> Tensor:
        return self._rows["weight"]

    @cached_property
    def counts(self) -> Tensor:
        return self._rows["counts"]

    @property
    def offsets(self) -> Tensor:
        return even_offsets(self.counts)

    def gather(self, x_TD: Tensor) -> Tensor:
        """(E * T, D): the tokens, E times."""
        return x_TD.repeat(len(self.sizes), 1)

    def by_token(self, y_ND: Tensor) -> Tensor:
        """(T, E, D): each expert's result for each token."""
        return y_ND.view(len(self.sizes), self.num_tokens, y_ND.shape[-1]).transpose(0, 1)

    def combine(self, y_ND: Tensor) -> Tensor:
        """(T, D): every token's weighted sum over all experts."""
        y_ETD = y_ND.view(len(self.sizes), self.num_tokens, y_ND.shape[-1])
        return (y_ETD * self.weights.to(y_ND.dtype).t()[..., None]).sum(0)


def _written_down(weight_TE: Tensor) -> dict[str, Tensor]:
    """The rows of every token with every expert."""
    T, E = weight_TE.shape
    index_N = torch.arange(T * E, device=weight_TE.device)
    rows = max(T, 1)
    return {
        "token_index": index_N % rows,
        "expert_index": index_N // rows,
        "weight": weight_TE.t().reshape(-1),
        "counts": torch.full((E,), T, dtype=torch.int64, device=index_N.device),
    }


class KernelPlan(AssignmentPlan):
    """All assignments, the dropped ones last, by the fewest operations and without a wait for the device."""

    routing: Routing
    rows: Sorted

    @staticmethod
    def of(routing: Routing, path: str) -> KernelPlan:
        rows = sort_by_expert(routing.token_index, routing.expert_index, routing.dropped, routing.num_experts)
        if routing.places:
            bags = Bags(rows.row, None, routing.places, rows.offsets[-1:], rows.order)
        else:
            bags = Bags.of(rows.token, routing.num_tokens)._replace(kept=rows.offsets[-1:])
        plan = object.__new__(KernelPlan)
        plan.__dict__.update(
            token_index=rows.token,
            expert_index=rows.expert,
            counts=rows.counts,
            num_tokens=routing.num_tokens,
            path=path,
            known_offsets=rows.offsets,
            bags=bags,
            rows=rows,
            routing=routing,
        )
        return plan

    @property
    def weight(self) -> Tensor:
        """(N,) zero for dropped rows; made when it is asked for."""
        return torch.where(self.routing.dropped, 0.0, self.routing.weight).index_select(0, self.rows.order)

    def combine(self, y_ND: Tensor) -> Tensor:
        """(T, D): every token's weighted sum over its experts; a token without one gets zero."""
        if self.plain or self.bags.order is None:
            return super().combine(y_ND)
        return sum_rows(y_ND, self.routing.weight, self.token_index, self.bags)


def make_plan(routing: Routing, path: str) -> Plan:
    """Sort ``routing`` by expert, stably, so that equal inputs give equal sums.

    Args:
        routing: The router's decision.
        path: How the experts compute. Static paths keep shapes independent of the data, as ``torch.compile`` and
            ``torch.export`` need; with the others dropped assignments are left out of the plan and cost nothing.
    """
    if routing.slots is not None:
        return SlotPlan.of(routing.slots, routing.num_tokens, path)
    if routing.everything:
        return EverythingPlan(routing, path)
    if path == "triton":
        return KernelPlan.of(routing, path)
    E = routing.num_experts
    static = path in STATIC_PATHS
    # Dropped assignments sort behind the last expert.
    key_N = torch.where(routing.dropped, E, routing.expert_index)
    key_N, order_N = torch.sort(key_N, stable=True)
    counts_E = torch.zeros(E + 1, dtype=torch.int64, device=key_N.device).scatter_add(0, key_N, torch.ones_like(key_N))[
        :E
    ]
    in_order = unweighted = False
    if not static:
        facts = counts_E
        if path == "loop" and len(key_N) == routing.num_tokens:
            facts = torch.cat([counts_E, _one_each(routing)])
        sizes = facts.tolist()  # the one wait for the device
        if len(sizes) > E:
            *sizes, in_order, unweighted = sizes
        kept = sum(sizes)
        key_N, order_N = key_N[:kept], order_N[:kept]
    weight_N = routing.weight.index_select(0, order_N)
    if static:
        weight_N = torch.where(key_N < E, weight_N, 0.0)
    fields: dict[str, Any] = {
        "token_index": routing.token_index.index_select(0, order_N),
        "expert_index": key_N.clamp(max=E - 1),
        "weight": weight_N,
        "counts": counts_E,
        "num_tokens": routing.num_tokens,
        "path": path,
    }
    if static:
        return AssignmentPlan(**fields)
    one_each = in_order and kept == routing.num_tokens > 0
    plan = OneEachPlan(**fields, unweighted=bool(unweighted)) if one_each else AssignmentPlan(**fields)
    plan.__dict__["sizes"] = sizes  # which it would wait for again
    return plan


def _one_each(routing: Routing) -> Tensor:
    """(2,) int64: whether the tokens of the assignments are 0, 1, 2, …, and whether every weight is 1."""
    index_N = torch.arange(len(routing.token_index), device=routing.token_index.device)
    return torch.stack([(routing.token_index == index_N).all(), (routing.weight.detach() == 1).all()]).to(torch.int64)
