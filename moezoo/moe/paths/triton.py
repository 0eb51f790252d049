"""Products over all experts with kernels around them, for GPUs: no pass over memory is spared that can be.

Where torch's grouped product is one kernel, nothing waits for the device; elsewhere there is a product per expert, and
one wait for their sizes. What :mod:`moezoo.moe.kernels` cannot compute is left to ``grouped``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe import kernels
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths import grouped
from moezoo.moe.paths.grouped_mm import ALIGNED, aligned
from moezoo.moe.paths.loop import gradients
from moezoo.moe.paths.stack import MLPStack, compute_dtype
from moezoo.moe.tracing import differentiates_again


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D); zeros in the dropped rows, which stand last."""
    dtype = compute_dtype(x_ND)
    if plan.plain or mlp.dropout or not fits(x_ND, mlp):
        return grouped.run(x_ND, plan, mlp)
    products = Products(plan.offsets, None if one_kernel(x_ND, mlp) else plan.sizes)
    x_ND, cast = x_ND.to(dtype).contiguous(), mlp.cast(dtype)
    if mlp.learns(x_ND):
        return _GroupedMLP.apply(x_ND, *cast.weights, products, mlp.activation, mlp.gated)
    return _inferred(x_ND, cast, products)


def fits(x: Tensor, mlp: MLPStack) -> bool:
    """Whether it computes these, as it is: products per expert cannot be traced."""
    if mlp.dropout or not kernels.usable(x) or compute_dtype(x) not in kernels.DTYPES:
        return False
    return not torch.compiler.is_compiling() or one_kernel(x, mlp)


def one_kernel(x: Tensor, mlp: MLPStack) -> bool:
    """Whether torch multiplies ``x`` by all of these weights at once, as they are, and without a wait."""
    dtype = compute_dtype(x)
    widths = (*mlp.w_in.shape[1:], mlp.w_out.shape[2])
    even = not any(width * dtype.itemsize % ALIGNED for width in widths)
    as_they_are = all(w.is_contiguous() and aligned(w) for w in mlp.weights)
    return even and as_they_are and dtype == torch.bfloat16 and _has_kernel(x.device)


@torch.compiler.assume_constant_result
def _has_kernel(device: torch.device) -> bool:
    """Whether torch has one there: on other devices its grouped product is a loop that waits for the sizes."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] in (9, 10)


class Products(NamedTuple):
    """Products of rows that are sorted by expert."""

    offsets: Tensor
    """(E,) int32: where each expert's rows end."""
    sizes: list[int] | None
    """How many they are, for a product per expert; ``None`` for one over all of them."""

    def rows(self, x_ND: Tensor, weight_EDH: Tensor) -> Tensor:
        """(N, H): each row times its expert's weight; dropped rows are undefined."""
        if self.sizes is None:
            return F.grouped_mm(x_ND, weight_EDH, offs=self.offsets)
        out_NH = x_ND.new_empty(len(x_ND), weight_EDH.shape[2])
        for e, x, out in self._each(x_ND, out_NH):
            torch.mm(x, weight_EDH[e], out=out)
        return out_NH

    def weights(self, dy_NH: Tensor, x_ND: Tensor) -> Tensor:
        """(E, H, D): of each expert ``dy^T x`` over its rows; zeros for one without rows."""
        if self.sizes is None:
            return F.grouped_mm(dy_NH.t(), x_ND, offs=self.offsets)
        out_EHD = x_ND.new_empty(len(self.sizes), dy_NH.shape[1], x_ND.shape[1])
        for e, dy, x in self._each(dy_NH, x_ND):
            torch.mm(dy.t(), x, out=out_EHD[e])
        for e, size in enumerate(self.sizes):
            if not size:
                out_EHD[e].zero_()
        return out_EHD

    def _each(self, *rows: Tensor) -> Iterator[tuple[Any, ...]]:
        """Of every expert that has rows its number and its share of each tensor."""
        assert self.sizes is not None
        kept = sum(self.sizes)
        shares = zip(*(r[:kept].split(self.sizes) for r in rows), strict=True)
        return ((e, *share) for e, share in enumerate(shares) if self.sizes[e])


def _inferred(x_ND: Tensor, mlp: MLPStack, products: Products) -> Tensor:
    """(N, D) without gradients."""
    from moezoo.moe.kernels.linear import FEW, linear
    from moezoo.moe.kernels.nonlinearity import hidden
    from moezoo.moe.kernels.sums import add_bias_

    w_in, b_in, w_out, b_out = mlp.weights
    offsets = products.offsets
    if products.sizes is None and not mlp.gated and len(x_ND) <= FEW * len(w_in):
        h_NH = linear(x_ND, w_in, b_in, offsets, mlp.activation)
        return linear(h_NH, w_out, b_out, offsets, None)
    h_NH = products.rows(x_ND, w_in.mT)
    a_NH = hidden(h_NH, b_in, offsets, mlp.activation, mlp.gated)
    return add_bias_(products.rows(a_NH, w_out.mT), b_out, offsets)


class _GroupedMLP(torch.autograd.Function):
    """Saves the rows and the hidden units before bias and activation, and recomputes what follows from them."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        w_in: Tensor,
        b_in: Tensor,
        w_out: Tensor,
        b_out: Tensor,
        products: Products,
        activation: str,
        gated: bool,
    ) -> Tensor:
        from moezoo.moe.kernels.nonlinearity import hidden
        from moezoo.moe.kernels.sums import add_bias_

        h_NH = products.rows(x_ND, w_in.mT)
        a_NH = hidden(h_NH, b_in, products.offsets, activation, gated)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x_ND, w_in, b_in, w_out, b_out, h_NH)
            ctx.products, ctx.activation, ctx.gated = products, activation, gated
        return add_bias_(products.rows(a_NH, w_out.mT), b_out, products.offsets)

    @staticmethod
    def backward(ctx: Any, dy_ND: Tensor) -> tuple[Tensor | None, ...]:
        from moezoo.moe.kernels.nonlinearity import hidden_backward
        from moezoo.moe.kernels.sums import sum_by_expert, zero_dropped_

        x_ND, w_in, b_in, w_out, b_out, h_NH = ctx.saved_tensors
        products: Products = ctx.products
        for_x, *for_weights = ctx.needs_input_grad[:5]
        if differentiates_again():
            return *_again(ctx, dy_ND, x_ND, w_in, b_in, w_out, b_out), None, None, None
        dy_ND, offsets = dy_ND.contiguous(), products.offsets
        da_NH = products.rows(dy_ND, w_out)
        dh_NH, db_in, a_NH = hidden_backward(da_NH, h_NH, b_in, offsets, ctx.activation, ctx.gated)
        dw: tuple[Tensor | None, ...] = (None,) * 4
        if any(for_weights):
            dw_out = products.weights(dy_ND, a_NH)
            del a_NH, da_NH
            dw = products.weights(dh_NH, x_ND), db_in, dw_out, sum_by_expert(dy_ND, offsets)
        dx_ND = zero_dropped_(products.rows(dh_NH, w_in), offsets) if for_x else None
        return dx_ND, *dw, None, None, None


def _again(ctx: Any, dy_ND: Tensor, x_ND: Tensor, *weights: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients by operations that can be differentiated."""
    offsets = ctx.products.offsets
    sizes = offsets.diff(prepend=offsets.new_zeros(1)).tolist()
    kept, wanted = sum(sizes), ctx.needs_input_grad[:5]
    dx, *dw = gradients((x_ND[:kept], *weights), wanted, dy_ND[:kept], sizes, ctx.activation, ctx.gated)
    return None if dx is None else F.pad(dx, (0, 0, 0, len(x_ND) - kept)), *dw
