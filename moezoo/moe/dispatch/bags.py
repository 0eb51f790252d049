"""Gathering tokens into rows and summing rows into tokens, each one pass over memory, forward and backward.

The rows of a token are a bag: what torch's ``embedding_bag`` sums, scales included, without the intermediate rows
that a product followed by ``index_add`` writes. It is also deterministic where ``index_add`` need not be.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class Bags(NamedTuple):
    """The rows of each token, one token after the other."""

    row: Tensor
    """(N,) int64: rows in the order of their tokens."""
    offset: Tensor
    """(T + 1,) int64: where each token's begin."""

    @staticmethod
    def of(token_index: Tensor, num_tokens: int) -> Bags:
        """Of N rows, whose tokens are ``token_index`` (N,)."""
        count_T = torch.zeros(num_tokens + 1, dtype=torch.int64, device=token_index.device)
        count_T.scatter_add_(0, token_index + 1, torch.ones_like(token_index))
        return Bags(token_index.sort(stable=True).indices, count_T.cumsum(0))


def gather_rows(x_TD: Tensor, token_index: Tensor, bags: Bags) -> Tensor:
    """(N, D): the token of each row."""
    return _Gather.apply(x_TD, token_index, *bags)


def sum_rows(y_ND: Tensor, weight_N: Tensor, token_index: Tensor, bags: Bags) -> Tensor:
    """(T, D): the sum of each token's rows times their weights; zero for a token without rows."""
    return _Sum.apply(y_ND, weight_N, token_index, *bags)


def _sum(rows_ND: Tensor, row: Tensor, offset: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.embedding_bag(row, rows_ND, offset, mode="sum", per_sample_weights=weight, include_last_offset=True)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, token_index: Tensor, row: Tensor, offset: Tensor) -> Tensor:
        ctx.save_for_backward(token_index, row, offset)
        return x_TD.index_select(0, token_index)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None, None]:
        token_index, row, offset = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again: plain operations
            grad_TD = grad_ND.new_zeros(len(offset) - 1, grad_ND.shape[1]).index_add(0, token_index, grad_ND)
        else:
            grad_TD = _sum(grad_ND.contiguous(), row, offset)
        return grad_TD, None, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, weight_N: Tensor, token_index: Tensor, row: Tensor, offset: Tensor) -> Tensor:
        ctx.save_for_backward(y_ND, weight_N, token_index)
        return _sum(y_ND, row, offset, weight_N.index_select(0, row))

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        y_ND, weight_N, token_index = ctx.saved_tensors
        grad_ND = grad_TD.index_select(0, token_index)
        weight_grad = torch.linalg.vecdot(grad_ND, y_ND)
        again = torch.is_grad_enabled()
        y_grad = grad_ND * weight_N[:, None] if again else grad_ND.mul_(weight_N[:, None])
        return y_grad, weight_grad, None, None, None
