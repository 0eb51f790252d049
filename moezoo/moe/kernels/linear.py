"""A linear map per expert, with bias and activation in the same pass: for inference, where nothing else is kept."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from moezoo.moe.kernels.launch import blocks_of, launch
from moezoo.moe.kernels.nonlinearity import NUMBER, share
from moezoo.moe.kernels.tiles import block_of_experts, number_of_tiles, tile


class Shape(NamedTuple):
    """What one program computes, and with what."""

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


SHAPES = {48: Shape(32, 128, 128, 4, 3), 128: Shape(64, 128, 64, 4, 4)}
"""By the mean rows of an expert up to which they are the fastest."""
LARGEST = Shape(128, 128, 64, 8, 4)
FEW = 256
"""Mean rows of an expert up to which one kernel is faster than torch's product and one for the rest."""


def linear(x_ND: Tensor, weight_EHD: Tensor, bias_EH: Tensor, offsets_E: Tensor, activation: str | None) -> Tensor:
    """(N, H): ``act(x w^T + b)`` by each row's expert; zeros in dropped rows.

    Args:
        x_ND: Rows sorted by expert.
        weight_EHD, bias_EH: Of the same type.
        offsets_E: int32, where each expert's rows end.
        activation: Its name; ``None`` for none.
    """
    (N, D), (E, H, _) = x_ND.shape, weight_EHD.shape
    x_ND, weight_EHD, bias_EH = x_ND.contiguous(), weight_EHD.contiguous(), bias_EH.contiguous()
    y_NH = x_ND.new_empty(N, H)
    if y_NH.numel():
        rows, columns, depth, warps, stages = shape_for(N // E)
        grid = blocks_of(columns, H), number_of_tiles(N, E, rows)
        args = x_ND, weight_EHD, bias_EH, y_NH, offsets_E, N, E, D, H, -1 if activation is None else NUMBER[activation]
        options = {"num_warps": warps, "num_stages": stages}
        launch(
            _linear, grid, *args, D % depth == 0, H % columns == 0, rows, columns, depth, block_of_experts(E), **options
        )
    return y_NH


def shape_for(rows: int) -> Shape:
    """The shape for experts with so many rows each."""
    return next((shape for most, shape in SHAPES.items() if rows <= most), LARGEST)


@triton.jit(do_not_specialize=["N"])
def _linear(
    x_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    offsets_ptr,
    N,
    E,
    D,
    H,
    ACT: tl.constexpr,
    WHOLE_D: tl.constexpr,
    WHOLE_H: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    expert, first, end = tile(tl.program_id(1), offsets_ptr, N, E, ROWS, BLOCK_E)
    row = (first + tl.arange(0, ROWS)).to(tl.int64)
    col = tl.program_id(0) * COLS + tl.arange(0, COLS)
    there = (row < end)[:, None] & (col < H)[None, :]
    out = y_ptr + row[:, None] * H + col[None, :]
    if expert >= E:
        tl.store(out, tl.zeros((ROWS, COLS), y_ptr.dtype.element_ty), mask=there)
    else:
        # What lies outside is computed from what lies inside, and not stored: reading needs no masks then.
        safe_row = tl.where(row < end, row, first)
        safe_col = col if WHOLE_H else tl.where(col < H, col, 0)
        depth = tl.arange(0, DEPTH)
        x = x_ptr + safe_row[:, None] * D + depth[None, :]
        weight = weight_ptr + expert.to(tl.int64) * H * D + safe_col[None, :] * D + depth[:, None]
        total = tl.zeros((ROWS, COLS), tl.float32)
        for done in range(0, D, DEPTH):
            if WHOLE_D:
                total = tl.dot(tl.load(x), tl.load(weight), total)
            else:
                left = depth < D - done
                a, b = tl.load(x, mask=left[None, :], other=0.0), tl.load(weight, mask=left[:, None], other=0.0)
                total = tl.dot(a, b, total)
            x += DEPTH
            weight += DEPTH
        total += tl.load(bias_ptr + expert.to(tl.int64) * H + safe_col).to(tl.float32)[None, :]
        if ACT >= 0:
            s, _ = share(total, ACT)
            total *= s
        tl.store(out, total.to(y_ptr.dtype.element_ty), mask=there)
