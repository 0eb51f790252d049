"""Between an expert's products: bias, activation and gate in one pass; backwards with the bias's gradient."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moezoo.moe.kernels.launch import blocks_of, launch
from moezoo.moe.kernels.sums import TILE, expert_sums
from moezoo.moe.kernels.tiles import block_of_experts, number_of_tiles, tile

COLUMNS, WARPS = 128, 4
NUMBER = {name: number for number, name in enumerate(("gelu", "gelu_tanh", "quick_gelu", "relu", "silu"))}


def hidden(h_NH: Tensor, bias_EH: Tensor, offsets_E: Tensor, activation: str, gated: bool) -> Tensor:
    """(N, H): ``act(h + bias)`` of each row's expert; gated: ``act(gate) * up`` of (N, 2H). Dropped rows are undefined.

    Args:
        h_NH: Rows sorted by expert.
        bias_EH: Per expert.
        offsets_E: int32, where each expert's rows end.
        activation: Its name.
        gated: Whether ``h`` has the gate's columns first.
    """
    (N, W), E = h_NH.shape, len(offsets_E)
    H = W // 2 if gated else W
    h_NH, bias_EH = h_NH.contiguous(), bias_EH.contiguous()
    out_NH = h_NH.new_empty(N, H)
    if out_NH.numel():
        grid = number_of_tiles(N, E, TILE), blocks_of(COLUMNS, H)
        args = h_NH, bias_EH, out_NH, offsets_E, N, E, H, NUMBER[activation], gated
        launch(_hidden, grid, *args, TILE, COLUMNS, block_of_experts(E), num_warps=WARPS)
    return out_NH


def hidden_backward(
    da_NH: Tensor, h_NH: Tensor, bias_EH: Tensor, offsets_E: Tensor, activation: str, gated: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of ``h``, that of the bias, and :func:`hidden` once more; not gated, ``da`` is overwritten.

    Args:
        da_NH: The gradient of what :func:`hidden` gave.
        h_NH, bias_EH, offsets_E, activation, gated: What it was given.
    """
    (N, W), E = h_NH.shape, len(offsets_E)
    H = W // 2 if gated else W
    da_NH, h_NH, bias_EH = da_NH.contiguous(), h_NH.contiguous(), bias_EH.contiguous()
    a_NH, dh_NH = torch.empty_like(da_NH), torch.empty_like(h_NH) if gated else da_NH
    tiles = number_of_tiles(N, E, TILE)
    sums = h_NH.new_empty(tiles, W, dtype=torch.float32)
    if a_NH.numel():
        grid = tiles, blocks_of(COLUMNS, H)
        args = da_NH, h_NH, bias_EH, a_NH, dh_NH, sums, offsets_E, N, E, H, NUMBER[activation], gated
        launch(_hidden_backward, grid, *args, TILE, COLUMNS, block_of_experts(E), num_warps=WARPS)
    return dh_NH, expert_sums(sums, offsets_E, bias_EH.dtype), a_NH


@triton.jit
def share(x, ACT: tl.constexpr):
    """``s`` and its slope, where the activation is ``x * s(x)``."""
    if ACT == 0:  # gelu
        s = 0.5 * (1.0 + tl.erf(x * 0.7071067811865476))
        slope = 0.3989422804014327 * tl.exp(-0.5 * x * x)
    elif ACT == 1:  # gelu_tanh: (1 + tanh u) / 2 is the sigmoid of 2u
        s = tl.sigmoid(1.5957691216057308 * (x + 0.044715 * x * x * x))
        slope = s * (1.0 - s) * 1.5957691216057308 * (1.0 + 0.134145 * x * x)
    elif ACT == 2:  # quick_gelu
        s = tl.sigmoid(1.702 * x)
        slope = 1.702 * s * (1.0 - s)
    elif ACT == 3:  # relu
        s = (x > 0).to(tl.float32)
        slope = x * 0.0
    else:  # silu
        s = tl.sigmoid(x)
        slope = s * (1.0 - s)
    return s, slope


@triton.jit
def _place(first, end, expert, E, H, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Rows (as int64, whose products are large), columns, and which of them there are; no dropped rows."""
    row = (first + tl.arange(0, ROWS)).to(tl.int64)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    return row, col, ((row < end) & (expert < E))[:, None] & (col < H)[None, :]


@triton.jit
def _biased(h_ptr, bias_ptr, row, col, there, expert, E, H, W, first):
    """``h + bias`` at these columns from column ``first`` on, in float32."""
    h = tl.load(h_ptr + row[:, None] * W + first + col[None, :], mask=there, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + expert.to(tl.int64) * W + first + col, mask=(col < H) & (expert < E), other=0.0)
    return h + bias.to(tl.float32)[None, :]


@triton.jit(do_not_specialize=["N"])
def _hidden(
    h_ptr,
    bias_ptr,
    out_ptr,
    offsets_ptr,
    N,
    E,
    H,
    ACT: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    expert, first, end = tile(tl.program_id(0), offsets_ptr, N, E, ROWS, BLOCK_E)
    row, col, there = _place(first, end, expert, E, H, ROWS, COLS)
    W = 2 * H if GATED else H
    x = _biased(h_ptr, bias_ptr, row, col, there, expert, E, H, W, 0)
    s, _ = share(x, ACT)
    out = x * s
    if GATED:
        out *= _biased(h_ptr, bias_ptr, row, col, there, expert, E, H, W, H)
    tl.store(out_ptr + row[:, None] * H + col[None, :], out.to(out_ptr.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=["N"])
def _hidden_backward(
    da_ptr,
    h_ptr,
    bias_ptr,
    a_ptr,
    dh_ptr,
    sums_ptr,
    offsets_ptr,
    N,
    E,
    H,
    ACT: tl.constexpr,
    GATED: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    BLOCK_E: tl.constexpr,
):
    expert, first, end = tile(tl.program_id(0), offsets_ptr, N, E, ROWS, BLOCK_E)
    row, col, there = _place(first, end, expert, E, H, ROWS, COLS)
    W = 2 * H if GATED else H
    narrow = row[:, None] * H + col[None, :]
    wide = row[:, None] * W + col[None, :]
    sums = sums_ptr + tl.program_id(0).to(tl.int64) * W + col
    x = _biased(h_ptr, bias_ptr, row, col, there, expert, E, H, W, 0)
    s, slope = share(x, ACT)
    a = x * s
    da = tl.load(da_ptr + narrow, mask=there, other=0.0).to(tl.float32)
    if GATED:
        up = _biased(h_ptr, bias_ptr, row, col, there, expert, E, H, W, H)
        dup = da * a
        tl.store(dh_ptr + wide + H, dup.to(dh_ptr.dtype.element_ty), mask=there)
        tl.store(sums + H, tl.sum(dup, 0), mask=col < H)
        da *= up
        a *= up
    tl.store(a_ptr + narrow, a.to(a_ptr.dtype.element_ty), mask=there)
    dx = da * (s + x * slope)
    tl.store(dh_ptr + wide, dx.to(dh_ptr.dtype.element_ty), mask=there)
    tl.store(sums, tl.sum(dx, 0), mask=col < H)
