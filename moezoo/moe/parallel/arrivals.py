"""The plan of a process for the rows that arrive at its experts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from moezoo.moe.dispatch.base import Plan
from moezoo.moe.parallel.exchange import exchange_counts


@dataclass(frozen=True)
class Arrivals(Plan):
    """Rows come sorted by process, then by expert, and are computed sorted by expert. None is dropped."""

    order: Tensor
    """(N,) int64: the arrived row of each computed one."""
    sent: list[int]
    """Rows that this process has for the experts of each process."""
    received: list[int]
    """Rows that each process has for the experts of this one."""

    @staticmethod
    def of(plan: Plan, group: dist.ProcessGroup) -> Arrivals:
        """What arrives when every process of ``group`` has a plan, over all experts. Collective."""
        counts_PE = exchange_counts(plan.counts, group)
        P, E = counts_PE.shape
        # One wait for the device for all numbers.
        sent, received = torch.stack([plan.counts.view(P, E).sum(1), counts_PE.sum(1)]).tolist()
        expert_E = torch.arange(E, device=counts_PE.device)
        expert_N = expert_E.repeat(P).repeat_interleave(counts_PE.flatten(), output_size=sum(received))
        expert_N, order = expert_N.sort(stable=True)
        return Arrivals(
            expert_index=expert_N,
            counts=counts_PE.sum(0),
            num_tokens=sum(received),
            path=plan.path,
            order=order,
            sent=sent,
            received=received,
        )

    def gather(self, x_TD: Tensor) -> Tensor:
        return x_TD.index_select(0, self.order)

    def combine(self, y_ND: Tensor) -> Tensor:
        return y_ND.index_select(0, self.order.argsort())
