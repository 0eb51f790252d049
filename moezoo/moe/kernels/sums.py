"""Sums over each expert's rows, in an order that never changes: of each tile, then of each expert's tiles."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moezoo.moe.kernels.launch import blocks_of, launch
from moezoo.moe.kernels.tiles import block_of_experts, number_of_tiles, tile, tiles_before

TILE = 32
"""Rows."""
COLUMNS, STEP = 128, 16


def sum_by_expert(x_ND: Tensor, offsets_E: Tensor) -> Tensor:
    """(E, D): the sum of each expert's rows, added up in float32; zeros for an expert without rows."""
    x_ND = x_ND.contiguous()
    (N, D), E = x_ND.shape, len(offsets_E)
    tiles = number_of_tiles(N, E, TILE)
    sums = x_ND.new_empty(tiles, D, dtype=torch.float32)
    if x_ND.numel():
        grid = tiles, blocks_of(COLUMNS, D)
        launch(_tile_sums, grid, x_ND, sums, offsets_E, N, E, D, TILE, COLUMNS, block_of_experts(E))
    return expert_sums(sums, offsets_E, x_ND.dtype)


def expert_sums(sums: Tensor, offsets_E: Tensor, dtype: torch.dtype) -> Tensor:
    """(E, D) of ``dtype``: the sum of each expert's tiles, of which ``sums`` (tiles, D) has one each."""
    E, D = len(offsets_E), sums.shape[1]
    out_ED = sums.new_empty(E, D, dtype=dtype)
    if out_ED.numel():
        grid = E, blocks_of(COLUMNS, D)
        launch(_expert_sums, grid, sums, out_ED, offsets_E, E, D, TILE, COLUMNS, STEP, block_of_experts(E))
    return out_ED


def add_bias_(y_ND: Tensor, bias_ED: Tensor, offsets_E: Tensor) -> Tensor:
    """``y``, which is contiguous, plus the bias of each row's expert, in place; zero in dropped rows."""
    (N, D), E, bias_ED = y_ND.shape, len(offsets_E), bias_ED.contiguous()
    if y_ND.numel():
        grid = number_of_tiles(N, E, TILE), blocks_of(COLUMNS, D)
        launch(_add_bias, grid, y_ND, bias_ED, offsets_E, N, E, D, True, TILE, COLUMNS, block_of_experts(E))
    return y_ND


def zero_dropped_(y_ND: Tensor, offsets_E: Tensor) -> Tensor:
    """``y``, which is contiguous, with zeros in dropped rows, in place; no other row is touched."""
    (N, D), E = y_ND.shape, len(offsets_E)
    if y_ND.numel():
        grid = number_of_tiles(N, E, TILE), blocks_of(COLUMNS, D)
        launch(_add_bias, grid, y_ND, y_ND, offsets_E, N, E, D, False, TILE, COLUMNS, block_of_experts(E))
    return y_ND


@triton.jit(do_not_specialize=["N"])
def _tile_sums(x_ptr, sums_ptr, offsets_ptr, N, E, D, ROWS: tl.constexpr, COLS: tl.constexpr, BLOCK_E: tl.constexpr):
    expert, first, end = tile(tl.program_id(0), offsets_ptr, N, E, ROWS, BLOCK_E)
    row = (first + tl.arange(0, ROWS)).to(tl.int64)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    there = ((row < end) & (expert < E))[:, None] & (col < D)[None, :]
    x = tl.load(x_ptr + row[:, None] * D + col[None, :], mask=there, other=0.0).to(tl.float32)
    tl.store(sums_ptr + tl.program_id(0).to(tl.int64) * D + col, tl.sum(x, 0), mask=col < D)


@triton.jit
def _expert_sums(
    sums_ptr,
    out_ptr,
    offsets_ptr,
    E,
    D,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    expert = tl.program_id(0)
    before, count = tiles_before(offsets_ptr, expert, E, ROWS, BLOCK_E)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    total = tl.zeros((COLS,), tl.float32)
    for i in range(0, count, STEP):
        n = i + tl.arange(0, STEP)
        there = (n < count)[:, None] & (col < D)[None, :]
        total += tl.sum(tl.load(sums_ptr + (before + n).to(tl.int64)[:, None] * D + col[None, :], there, other=0.0), 0)
    tl.store(out_ptr + expert.to(tl.int64) * D + col, total.to(out_ptr.dtype.element_ty), mask=col < D)


@triton.jit(do_not_specialize=["N"])
def _add_bias(
    y_ptr,
    bias_ptr,
    offsets_ptr,
    N,
    E,
    D,
    ADD: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    expert, first, end = tile(tl.program_id(0), offsets_ptr, N, E, ROWS, BLOCK_E)
    row = (first + tl.arange(0, ROWS)).to(tl.int64)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    there = (row < end)[:, None] & (col < D)[None, :]
    place = y_ptr + row[:, None] * D + col[None, :]
    if expert == E:
        tl.store(place, tl.zeros((ROWS, COLS), y_ptr.dtype.element_ty), mask=there)
    elif ADD:
        bias = tl.load(bias_ptr + expert.to(tl.int64) * D + col, mask=(col < D) & (expert < E), other=0.0)
        y = tl.load(place, mask=there, other=0.0).to(tl.float32) + bias.to(tl.float32)[None, :]
        tl.store(place, y.to(y_ptr.dtype.element_ty), mask=there)
