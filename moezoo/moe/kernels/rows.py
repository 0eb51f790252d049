"""Rows summed into tokens, and the gradients of that: every row is read once, and sums are in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from moezoo.moe.kernels.launch import blocks_of, launch

TOKENS, ROWS, COLUMNS = 16, 16, 128


def sum_bags(
    y_ND: Tensor,
    weight_N: Tensor | None,
    row: Tensor,
    offset: Tensor | None,
    places: int,
    kept: Tensor | None,
    order: Tensor | None,
) -> Tensor:
    """(T, D): the sum of each token's rows, times their weights where given.

    Args:
        y_ND: The rows.
        weight_N: Of each row; where there is an ``order``, of each place in ``row``.
        row, offset, places, kept, order: As in :class:`moezoo.moe.dispatch.bags.Bags`.
    """
    D, y_ND = y_ND.shape[1], y_ND.contiguous()
    weight_N = None if weight_N is None else weight_N.contiguous()
    T = len(row) // places if offset is None else len(offset) - 1
    out_TD = y_ND.new_empty(T, D)
    if out_TD.numel():
        grid = blocks_of(TOKENS, T), blocks_of(COLUMNS, D)
        args = y_ND, weight_N, row, offset, kept, out_TD, T, len(y_ND), D, places if offset is None else 0
        launch(_sum_bags, grid, *args, order is None, TOKENS, COLUMNS)
    return out_TD


def sum_bags_backward(
    grad_TD: Tensor, y_ND: Tensor, weight_N: Tensor, token_N: Tensor, kept: Tensor | None, order: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The gradients (N, D) of the rows and (N,) of the weights; zeros from row ``kept`` on.

    Args:
        grad_TD: The gradient of what :func:`sum_bags` gave.
        y_ND, weight_N, kept, order: What it was given.
        token_N: The token of each row.
    """
    grad_TD, y_ND, weight_N = grad_TD.contiguous(), y_ND.contiguous(), weight_N.contiguous()
    N, D = y_ND.shape
    dy_ND, dw_N = torch.empty_like(y_ND), torch.empty_like(weight_N)
    if N:
        args = grad_TD, y_ND, weight_N, token_N, order, kept, dy_ND, dw_N, N, D
        launch(_sum_bags_backward, (blocks_of(ROWS, N),), *args, ROWS, COLUMNS)
    return dy_ND, dw_N


@triton.jit(do_not_specialize=["T", "N"])
def _sum_bags(
    y_ptr,
    weight_ptr,
    row_ptr,
    offset_ptr,
    kept_ptr,
    out_ptr,
    T,
    N,
    D,
    PLACES: tl.constexpr,
    BY_ROW: tl.constexpr,
    TOKENS: tl.constexpr,
    COLS: tl.constexpr,
):
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    col = tl.program_id(1) * COLS + tl.arange(0, COLS)
    is_col, is_token = (col < D)[None, :], token < T
    kept = N if kept_ptr is None else tl.load(kept_ptr)
    if PLACES:
        begin = token * PLACES
        count = tl.where(is_token, PLACES, 0)
        most = PLACES
    else:
        begin = tl.load(offset_ptr + token, mask=is_token, other=0)
        count = tl.load(offset_ptr + token + 1, mask=is_token, other=0) - begin
        most = tl.max(count, 0)
    total = tl.zeros((TOKENS, COLS), tl.float32)
    for i in range(most):
        row = tl.load(row_ptr + begin + i, mask=i < count, other=N).to(tl.int64)
        there = row < kept
        y = tl.load(y_ptr + row[:, None] * D + col[None, :], mask=there[:, None] & is_col, other=0.0).to(tl.float32)
        if weight_ptr is not None:
            place = row if BY_ROW else begin + i
            y *= tl.load(weight_ptr + place, mask=there, other=0.0).to(tl.float32)[:, None]
        total += y
    out = out_ptr + token.to(tl.int64)[:, None] * D + col[None, :]
    tl.store(out, total.to(out_ptr.dtype.element_ty), mask=is_token[:, None] & is_col)


@triton.jit(do_not_specialize=["N"])
def _sum_bags_backward(
    grad_ptr,
    y_ptr,
    weight_ptr,
    token_ptr,
    order_ptr,
    kept_ptr,
    dy_ptr,
    dw_ptr,
    N,
    D,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    kept = N if kept_ptr is None else tl.load(kept_ptr)
    is_row, there = row < N, row < kept
    token = tl.load(token_ptr + row, mask=there, other=0).to(tl.int64)
    source = row if order_ptr is None else tl.load(order_ptr + row, mask=is_row, other=0)
    weight = tl.load(weight_ptr + source, mask=there, other=0.0).to(tl.float32)
    place = row.to(tl.int64)[:, None] * D
    dot = tl.zeros((ROWS, COLS), tl.float32)
    for first in range(0, D, COLS):
        col = first + tl.arange(0, COLS)[None, :]
        mask = there[:, None] & (col < D)
        grad = tl.load(grad_ptr + token[:, None] * D + col, mask=mask, other=0.0).to(tl.float32)
        dot += grad * tl.load(y_ptr + place + col, mask=mask, other=0.0).to(tl.float32)
        dy = grad * weight[:, None]
        tl.store(dy_ptr + place + col, dy.to(dy_ptr.dtype.element_ty), mask=is_row[:, None] & (col < D))
    tl.store(dw_ptr + source, tl.sum(dot, 1).to(dw_ptr.dtype.element_ty), mask=is_row)
