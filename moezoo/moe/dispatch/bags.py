"""Gathering tokens into rows and summing rows into tokens, each one pass over memory, forward and backward.

The rows of a token are a bag: what torch's ``embedding_bag`` sums, scales included, without the intermediate rows
that a product followed by ``index_add`` writes. It is also deterministic where ``index_add`` need not be. On a GPU
kernels of our own do the same, and spare rows that nobody wants.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe import kernels
from moezoo.moe.tracing import differentiates_again


class Bags(NamedTuple):
    """The rows of each token, one token after the other."""

    row: Tensor
    """(N,) int64: rows in the order of their tokens."""
    offset: Tensor | None
    """(T + 1,) int64: where each token's begin; ``None``: each token has ``places``."""
    places: int = 0
    kept: Tensor | None = None
    """(1,) the rows from this one on are dropped ones; ``None``: there are no such rows, or they are zero and weigh
    nothing."""
    order: Tensor | None = None
    """(N,) int64: the place of each row in ``row``, where weights are given in the order of ``row``; ``None``: they are
    given in that of the rows."""

    @staticmethod
    def of(token_index: Tensor, num_tokens: int) -> Bags:
        """Of N rows, whose tokens are ``token_index`` (N,)."""
        count_T = torch.zeros(num_tokens + 1, dtype=torch.int64, device=token_index.device)
        count_T.scatter_add_(0, token_index + 1, torch.ones_like(token_index))
        return Bags(token_index.sort(stable=True).indices, count_T.cumsum(0))


def gather_rows(x_TD: Tensor, token_index: Tensor, bags: Bags) -> Tensor:
    """(N, D): the token of each row."""
    if torch.is_grad_enabled() and x_TD.requires_grad:
        return _Gather.apply(x_TD, token_index, bags)
    return x_TD.index_select(0, token_index)


def sum_rows(y_ND: Tensor, weight_N: Tensor, token_index: Tensor, bags: Bags) -> Tensor:
    """(T, D): the sum of each token's rows times their weights; zero for a token without rows."""
    if torch.is_grad_enabled() and (y_ND.requires_grad or weight_N.requires_grad):
        return _Sum.apply(y_ND, weight_N, token_index, bags)
    return _sum(y_ND, bags, weight_N)


def _sum(rows_ND: Tensor, bags: Bags, weight_N: Tensor | None = None) -> Tensor:
    if kernels.usable(rows_ND):
        from moezoo.moe.kernels.rows import sum_bags

        return sum_bags(rows_ND, weight_N, *bags)
    offset = bags.offset
    if offset is None:
        offset = torch.arange(0, len(bags.row) + 1, bags.places, device=bags.row.device)
    if weight_N is not None:
        weight_N = weight_N.to(rows_ND.dtype)
        weight_N = weight_N.index_select(0, bags.row) if bags.order is None else weight_N
    return F.embedding_bag(bags.row, rows_ND, offset, mode="sum", per_sample_weights=weight_N, include_last_offset=True)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TD: Tensor, token_index: Tensor, bags: Bags) -> Tensor:
        ctx.save_for_backward(token_index)
        ctx.bags, ctx.num_tokens = bags, len(x_TD)
        return x_TD.index_select(0, token_index)

    @staticmethod
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor, None, None]:
        (token_index,) = ctx.saved_tensors
        if differentiates_again():  # plain operations
            grad_TD = grad_ND.new_zeros(ctx.num_tokens, grad_ND.shape[1]).index_add(0, token_index, grad_ND)
        else:
            grad_TD = _sum(grad_ND.contiguous(), ctx.bags)
        return grad_TD, None, None


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y_ND: Tensor, weight_N: Tensor, token_index: Tensor, bags: Bags) -> Tensor:
        ctx.save_for_backward(y_ND, weight_N, token_index)
        ctx.bags = bags
        return _sum(y_ND, bags, weight_N)

    @staticmethod
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor, Tensor, None, None]:
        y_ND, weight_N, token_index = ctx.saved_tensors
        bags: Bags = ctx.bags
        again = differentiates_again()
        if not again and kernels.usable(y_ND):
            from moezoo.moe.kernels.rows import sum_bags_backward

            return *sum_bags_backward(grad_TD, y_ND, weight_N, token_index, bags.kept, bags.order), None, None
        grad_ND = grad_TD.index_select(0, token_index)
        weight_grad = torch.linalg.vecdot(grad_ND, y_ND).to(weight_N.dtype)
        if bags.order is not None:
            weight_grad, weight_N = weight_grad.index_select(0, bags.row), weight_N.index_select(0, bags.order)
        scale_N1 = weight_N.to(y_ND.dtype)[:, None]
        return grad_ND * scale_N1 if again else grad_ND.mul_(scale_N1), weight_grad, None, None
