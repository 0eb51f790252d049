"""Experts of which a process keeps some: the same module with a forward that sends rows away and takes others in."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from moezoo.moe.dispatch.base import Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.parallel.arrivals import Arrivals
from moezoo.moe.parallel.exchange import exchange
from moezoo.moe.paths.stack import compute_dtype
from moezoo.moe.types import Routing


class SpreadExperts(Experts):
    """Mixed into the class of experts whose own parameters are DTensors, sharded over the experts."""

    mesh: DeviceMesh
    """One-dimensional: the processes among which the experts are spread."""

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        """Every process computes what arrived for its experts, all of them, with no rows too. Collective."""
        group = self.mesh.get_group()
        arrived = Arrivals.of(plan, group)
        kept = sum(arrived.sent)  # behind them a static plan has the dropped rows
        # Rows travel in the type they are computed in.
        rows = exchange(x_ND[:kept].to(compute_dtype(x_ND)), arrived.sent, arrived.received, group)
        with own_experts(self):
            y = super().forward(arrived.gather(rows), arrived)  # type: ignore[safe-super]
        y_ND = exchange(arrived.combine(y), arrived.received, arrived.sent, group)
        return y_ND if kept == len(x_ND) else F.pad(y_ND, (0, 0, 0, len(x_ND) - kept))

    def choose_path(self, x_TD: Tensor, routing: Routing) -> str:
        with own_experts(self):
            return super().choose_path(x_TD, routing)

    def flops(self, rows: Sequence[int]) -> int:
        with own_experts(self):
            return super().flops(rows)  # type: ignore[safe-super]


@contextmanager
def own_experts(experts: nn.Module) -> Iterator[None]:
    """While it is open the parameters are plain tensors of this process's experts, with gradients flowing back."""
    whole = dict(experts._parameters)
    try:
        for name, p in whole.items():
            if isinstance(p, DTensor):
                experts._parameters[name] = p.to_local()
        yield
    finally:
        experts._parameters.update(whole)


@functools.cache
def spread_class(kind: type[Experts]) -> type[Experts]:
    """``kind`` with :class:`SpreadExperts` before it."""
    return type(f"Spread{kind.__name__}", (SpreadExperts, kind), {"__module__": kind.__module__})


def own_class(experts: SpreadExperts) -> Any:
    """The class that the experts had before they were spread."""
    return next(cls for cls in type(experts).__mro__ if not issubclass(cls, SpreadExperts))
