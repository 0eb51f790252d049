"""Rows from every process to every process, forward and backward."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def exchange(rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
    """The rows that the others have for this process, in the order of their ranks; gradients go the way back.

    Collective, and so is its backward pass.

    Args:
        rows: (N, …) those for the first process, then those for the second, …
        sent: How many are for each process; zero is allowed.
        received: How many come from each process.
        group: The processes.
    """
    return _Exchange.apply(rows, sent, received, group)


def exchange_counts(counts_E: Tensor, group: dist.ProcessGroup) -> Tensor:
    """(P, E / P) how many rows each of the P processes has for the experts of this one; ``counts_E`` are its own."""
    received = torch.empty_like(counts_E)
    dist.all_to_all_single(received, counts_E.contiguous(), group=group)
    return received.view(dist.get_world_size(group), -1)


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> Tensor:
        ctx.sent, ctx.received, ctx.group = sent, received, group
        out = rows.new_empty(sum(received), *rows.shape[1:])
        dist.all_to_all_single(out, rows.contiguous(), received, sent, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        return exchange(grad, ctx.received, ctx.sent, ctx.group), None, None, None
