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

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.hidden import hidden_backward_, hidden_into
from moezoo.moe.paths.loop import gradients, run_sizes
from moezoo.moe.paths.products import linear
from moezoo.moe.paths.stack import MLPStack, compute_dtype


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D). With dropout, and under function transforms, it is the reference."""
    if mlp.dropout or plan.plain:
        return run_sizes(x_ND, plan.sizes, mlp)
    x_ND = x_ND.to(compute_dtype(x_ND))
    return _SortedMLP.apply(x_ND, *mlp.cast(x_ND.dtype).weights, plan.sizes, mlp.activation, mlp.gated)


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
        buffers = x_ND.new_empty(max(sizes, default=0), w_out.shape[2])
        save = any(ctx.needs_input_grad)
        y, saved = [x_ND[:0]], []
        for x, w1, b1, w2, b2 in used(sizes, x_ND.split(sizes), w_in, b_in, w_out, b_out):
            h = linear(x, w1, b1)
            a = buffers[: len(x)]
            hidden_into(a, h, activation, gated)
            y.append(linear(a, w2, b2))
            if save:
                saved.append(h)
        if save:
            ctx.save_for_backward(x_ND, w_in, b_in, w_out, b_out, *saved)
            ctx.sizes, ctx.activation, ctx.gated = sizes, activation, gated
        return torch.cat(y)

    @staticmethod
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        x_ND, w_in, b_in, w_out, b_out, *saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            inputs, wanted = (x_ND, w_in, b_in, w_out, b_out), ctx.needs_input_grad[:5]
            return *gradients(inputs, wanted, dy_ND, ctx.sizes, ctx.activation, ctx.gated), None, None, None
        for_x, *for_weights = ctx.needs_input_grad[:5]
        sizes, H = ctx.sizes, w_out.shape[2]
        grads = gradients_like(w_in, w_out, sizes) if any(for_weights) else ()
        a_NH, dh_NH = x_ND.new_empty(2, max(sizes, default=0), H).unbind(0)
        dx = [x_ND[:0]]
        rows = x_ND.split(sizes), dy_ND.split(sizes)
        for h, (x, dy, w1, w2, *dw) in zip(saved, used(sizes, *rows, w_in, w_out, *grads), strict=True):
            a, dh = a_NH[: len(x)], torch.empty_like(h) if ctx.gated else dh_NH[: len(x)]
            hidden_backward_(dh, linear(dy, w2.t()), h, ctx.activation, ctx.gated)
            if for_x:
                dx.append(linear(dh, w1.t()))
            if any(for_weights):
                hidden_into(a, h, ctx.activation, ctx.gated)
                torch.mm(dy.t(), a, out=dw[2])
                torch.mm(dh.t(), x, out=dw[0])
                torch.sum(dh, 0, out=dw[1])
                torch.sum(dy, 0, out=dw[3])
        return torch.cat(dx) if for_x else None, *(grads or (None,) * 4), None, None, None


def used(sizes: list[int], *parts: Any) -> Iterator[tuple[Any, ...]]:
    """Of every expert that has rows its share of each part, which is a stack over experts or a split by them."""
    parts = tuple(p.unbind(0) if isinstance(p, Tensor) else p for p in parts)
    return (tuple(share) for size, *share in zip(sizes, *parts, strict=True) if size)


def gradients_like(w_in: Tensor, w_out: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    """Of ``w_in, b_in, w_out, b_out``: zero for experts without rows, else to be written."""
    grads = tuple(w.new_empty(shape) for w in (w_in, w_out) for shape in (w.shape, w.shape[:2]))
    for e, size in enumerate(sizes):
        if not size:
            for grad in grads:
                grad[e].zero_()
    return grads
