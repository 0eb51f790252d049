"""Assignments sorted by expert without a wait for the device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from moezoo.moe import kernels


class Sorted(NamedTuple):
    """N assignments as rows, those of expert 0 first, the dropped ones last."""

    order: Tensor
    """(N,) int64 the assignment of each row."""
    row: Tensor
    """(N,) int64 the row of each assignment."""
    token: Tensor
    """(N,) int64 the token of each row."""
    expert: Tensor
    """(N,) int64 the expert of each row; of dropped ones the last."""
    counts: Tensor
    """(E,) int64 rows of each expert."""
    offsets: Tensor
    """(E,) int32 where they end."""


def sort_by_expert(token_N: Tensor, expert_N: Tensor, dropped_N: Tensor, experts: int) -> Sorted:
    """Assignments by their expert, in their order within each, the dropped ones behind.

    Args:
        token_N: int64 the token of each assignment.
        expert_N: int64 its expert.
        dropped_N: bool, whether nobody computes it.
        experts: E.
    """
    if expert_N.is_cuda and kernels.compiles(expert_N.device):
        from moezoo.moe.kernels.sort import counting_sort

        return Sorted(*counting_sort(token_N, expert_N, dropped_N, experts))
    key_N, order_N = torch.where(dropped_N, experts, expert_N).sort(stable=True)
    index = torch.arange(max(len(order_N), experts), device=order_N.device)
    offsets_E = torch.searchsorted(key_N, index[:experts], right=True)
    return Sorted(
        order=order_N,
        row=torch.empty_like(order_N).scatter_(0, order_N, index[: len(order_N)]),
        token=token_N.index_select(0, order_N),
        expert=key_N.clamp(max=experts - 1),
        counts=offsets_E.diff(prepend=offsets_E.new_zeros(1)),
        offsets=offsets_E.to(torch.int32),
    )
