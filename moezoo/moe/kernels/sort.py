"""Assignments sorted by expert, by counting: stable, whatever their number, and few of them in one step."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moezoo.moe.kernels.launch import blocks_of, launch
from moezoo.moe.kernels.tiles import block_of_experts

ELEMENTS = 8192
"""Assignments times experts that one program compares at a time."""
STEPS = 4
"""So many times that are left to one program: more launches would take longer."""


def counting_sort(token_N: Tensor, expert_N: Tensor, dropped_N: Tensor, experts: int) -> tuple[Tensor, ...]:
    """What :func:`moezoo.moe.dispatch.by_expert.sort_by_expert` gives, of what it is given."""
    token_N, dropped_N = token_N.contiguous(), dropped_N.contiguous()
    if torch.compiler.is_compiling():  # which lays tensors out as it likes
        expert_N = expert_N.contiguous()
    N, stride, block_e = len(expert_N), expert_N.stride(0), block_of_experts(experts)
    found = (
        *(expert_N.new_empty(N) for _ in range(4)),
        expert_N.new_empty(experts),
        expert_N.new_empty(experts, dtype=torch.int32),
    )
    given = expert_N, token_N, dropped_N
    size = max(ELEMENTS // block_e, 16)
    if blocks_of(2 * size, N) <= STEPS:
        launch(_sort_few, (1,), *given, *found, N, stride, experts, 2 * size, block_e, num_warps=8)
        return found
    blocks = blocks_of(size, N)
    count = expert_N.new_empty((experts + 1) * blocks, dtype=torch.int32)
    launch(_count, (blocks,), expert_N, dropped_N, count, N, stride, experts, size, block_e)
    until = count.cumsum(0, dtype=torch.int32)
    launch(_place, (blocks,), *given, count, until, *found, N, stride, experts, size, block_e)
    return found


@triton.jit
def _keys(first, expert_ptr, dropped_ptr, N, stride, E, SIZE: tl.constexpr, BLOCK_E: tl.constexpr):
    """Assignments from ``first`` on, the expert of each (E: dropped, E + 1: there is none), and its one-hot code."""
    i = first + tl.arange(0, SIZE)
    expert = tl.load(expert_ptr + i.to(tl.int64) * stride, mask=i < N, other=0).to(tl.int32)
    dropped = tl.load(dropped_ptr + i, mask=i < N, other=0).to(tl.int32)
    key = tl.where(i < N, tl.where(dropped != 0, E, expert), E + 1)
    return i, key, (key[:, None] == tl.arange(0, BLOCK_E)[None, :]).to(tl.int32)


@triton.jit
def _put(i, key, one_hot, before, token_ptr, order_ptr, row_ptr, row_token_ptr, row_expert_ptr, N, E):
    """Write where assignments go, ``before`` which each expert has as many rows."""
    row = tl.sum(one_hot * (tl.cumsum(one_hot, 0) - 1 + before[None, :]), 1)
    there = i < N
    tl.store(order_ptr + row, i.to(tl.int64), mask=there)
    tl.store(row_ptr + i, row.to(tl.int64), mask=there)
    tl.store(row_token_ptr + row, tl.load(token_ptr + i, mask=there, other=0), mask=there)
    tl.store(row_expert_ptr + row, tl.minimum(key, E - 1).to(tl.int64), mask=there)


@triton.jit(do_not_specialize=["N"])
def _sort_few(
    expert_ptr,
    token_ptr,
    dropped_ptr,
    order_ptr,
    row_ptr,
    row_token_ptr,
    row_expert_ptr,
    counts_ptr,
    offsets_ptr,
    N,
    stride,
    E,
    SIZE: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    e = tl.arange(0, BLOCK_E)
    count = tl.zeros((BLOCK_E,), tl.int32)
    for first in range(0, N, SIZE):
        _, _, one_hot = _keys(first, expert_ptr, dropped_ptr, N, stride, E, SIZE, BLOCK_E)
        count += tl.sum(one_hot, 0)
    until = tl.cumsum(count, 0)
    tl.store(offsets_ptr + e, until, mask=e < E)
    tl.store(counts_ptr + e, count.to(tl.int64), mask=e < E)
    before = until - count
    for first in range(0, N, SIZE):
        i, key, one_hot = _keys(first, expert_ptr, dropped_ptr, N, stride, E, SIZE, BLOCK_E)
        _put(i, key, one_hot, before, token_ptr, order_ptr, row_ptr, row_token_ptr, row_expert_ptr, N, E)
        before += tl.sum(one_hot, 0)


@triton.jit(do_not_specialize=["N"])
def _count(expert_ptr, dropped_ptr, count_ptr, N, stride, E, SIZE: tl.constexpr, BLOCK_E: tl.constexpr):
    _, _, one_hot = _keys(tl.program_id(0) * SIZE, expert_ptr, dropped_ptr, N, stride, E, SIZE, BLOCK_E)
    e = tl.arange(0, BLOCK_E)
    tl.store(count_ptr + e * tl.num_programs(0) + tl.program_id(0), tl.sum(one_hot, 0), mask=e <= E)


@triton.jit(do_not_specialize=["N"])
def _place(
    expert_ptr,
    token_ptr,
    dropped_ptr,
    count_ptr,
    until_ptr,
    order_ptr,
    row_ptr,
    row_token_ptr,
    row_expert_ptr,
    counts_ptr,
    offsets_ptr,
    N,
    stride,
    E,
    SIZE: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    e = tl.arange(0, BLOCK_E)
    block, blocks = tl.program_id(0), tl.num_programs(0)
    i, key, one_hot = _keys(block * SIZE, expert_ptr, dropped_ptr, N, stride, E, SIZE, BLOCK_E)
    place = e * blocks + block
    before = tl.load(until_ptr + place, mask=e <= E, other=0) - tl.load(count_ptr + place, mask=e <= E, other=0)
    _put(i, key, one_hot, before, token_ptr, order_ptr, row_ptr, row_token_ptr, row_expert_ptr, N, E)
    if block == 0:
        stop = tl.load(until_ptr + (e + 1) * blocks - 1, mask=e < E, other=0)
        start = tl.load(until_ptr + e * blocks - 1, mask=(e > 0) & (e < E), other=0)
        tl.store(offsets_ptr + e, stop, mask=e < E)
        tl.store(counts_ptr + e, (stop - start).to(tl.int64), mask=e < E)
