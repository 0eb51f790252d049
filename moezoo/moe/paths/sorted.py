"""Per expert two products on its rows, with buffers that all experts share and a backward pass of its own.

Autograd would keep the hidden units twice, before and after the activation, and make a tensor for every step of every
expert. Here the hidden units before the activation are all that is saved (without gradients, nothing is), the
activation is recomputed in a buffer that stays in the cache, and products write where their result belongs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.hidden import hidden_backward_, hidden_into
from moezoo.moe.paths.stack import MLPStack, compute_dtype


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D)."""
    x_ND = x_ND.to(compute_dtype(x_ND))
    return _SortedMLP.apply(x_ND, *mlp.cast(x_ND.dtype).weights, plan.sizes, mlp.activation, mlp.gated)


def spans(sizes: list[int]) -> Iterator[tuple[int, int, int]]:
    """Expert, first row and end of every expert that has rows."""
    start = 0
    for e, size in enumerate(sizes):
        if size:
            yield e, start, start + size
        start += size


class _SortedMLP(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        sizes: list[int],
        activation: str,
        gated: bool,
    ) -> Tensor:
        most = max(sizes, default=0)
        save = any(ctx.needs_input_grad)
        W, H = w_in.shape[1], w_out.shape[2]
        h_NW = x_ND.new_empty(len(x_ND) if save else most, W)
        a_NH = x_ND.new_empty(most, H)
        y_ND = torch.empty_like(x_ND)
        for e, start, stop in spans(sizes):
            h, a = h_NW[start:stop] if save else h_NW[: stop - start], a_NH[: stop - start]
            torch.addmm(b_in[e], x_ND[start:stop], w_in[e].t(), out=h)
            hidden_into(a, h, activation, gated)
            torch.addmm(b_out[e], a, w_out[e].t(), out=y_ND[start:stop])
        if save:
            ctx.save_for_backward(x_ND, h_NW, w_in, w_out)
            ctx.sizes, ctx.activation, ctx.gated = sizes, activation, gated
        return y_ND

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, h_NW, w_in, w_out = ctx.saved_tensors
        dy_ND = dy_ND.contiguous()
        most = max(ctx.sizes, default=0)
        dx_ND = torch.empty_like(x_ND) if ctx.needs_input_grad[0] else None
        E, D, H = w_out.shape
        W = w_in.shape[1]
        dw_in, db_in = torch.empty_like(w_in), w_in.new_empty(E, W)
        dw_out, db_out = torch.empty_like(w_out), w_out.new_empty(E, D)
        a_NH, da_NH, dh_NW = x_ND.new_empty(most, H), x_ND.new_empty(most, H), x_ND.new_empty(most, W)
        for e, start, stop in spans(ctx.sizes):
            rows = stop - start
            h, dy, a, da, dh = h_NW[start:stop], dy_ND[start:stop], a_NH[:rows], da_NH[:rows], dh_NW[:rows]
            hidden_into(a, h, ctx.activation, ctx.gated)
            torch.mm(dy.t(), a, out=dw_out[e])
            torch.sum(dy, 0, out=db_out[e])
            torch.mm(dy, w_out[e], out=da)
            hidden_backward_(dh, da, h, ctx.activation, ctx.gated)
            torch.mm(dh.t(), x_ND[start:stop], out=dw_in[e])
            torch.sum(dh, 0, out=db_in[e])
            if dx_ND is not None:
                torch.mm(dh, w_in[e], out=dx_ND[start:stop])
        for grad in (dw_in, db_in, dw_out, db_out):
            for e, size in enumerate(ctx.sizes):
                if not size:
                    grad[e].zero_()
        return dx_ND, dw_in, db_in, dw_out, db_out, None, None, None
