"""The grouped matrix product, traceable for every dtype on every torch this library supports.

torch's own ``grouped_mm`` computes float32 on a CPU, but before torch 2.15 it cannot be traced for it (compile, export,
meta tensors), and it never takes float64. There an operator of our own stands in: opaque to tracing, equal in every
number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.tracing import has_values


def grouped_mm(x_ND: Tensor, weight_EDH: Tensor, offsets_E: Tensor) -> Tensor:
    """(N, H): rows ``offsets[e - 1]`` to ``offsets[e]`` of ``x`` times ``weight[e]``.

    Rows behind the last offset are undefined. Strides must be multiples of 16 bytes, as torch's operator asks for.
    """
    if x_ND.dtype in _TRACEABLE:
        return F.grouped_mm(x_ND, weight_EDH, offs=offsets_E)
    return _product(x_ND, weight_EDH, offsets_E)


ALIGNED = 16
"""Bytes: strides and addresses that torch's operator takes are multiples of it."""


def aligned(tensor: Tensor) -> bool:
    """Whether the memory begins where torch's operator wants it, as that of a slice of a flat buffer need not.

    While tracing, and of tensors without an address, it is taken to.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active() or not has_values(tensor):
        return True
    return type(tensor) not in (Tensor, nn.Parameter) or tensor.data_ptr() % ALIGNED == 0


def _traces(dtype: torch.dtype) -> bool:
    x, weight = torch.empty(8, 8, dtype=dtype, device="meta"), torch.empty(1, 8, 8, dtype=dtype, device="meta")
    try:
        F.grouped_mm(x, weight.transpose(-2, -1), offs=torch.empty(1, dtype=torch.int32, device="meta"))
    except (RuntimeError, ValueError):
        return False
    return True


_TRACEABLE = frozenset(dtype for dtype in (torch.float32, torch.bfloat16, torch.float16) if _traces(dtype))


@torch.library.custom_op("moezoo::grouped_mm", mutates_args=())
def _product(x_ND: Tensor, weight_EDH: Tensor, offsets_E: Tensor) -> Tensor:
    if x_ND.dtype != torch.float64:
        return F.grouped_mm(x_ND, weight_EDH, offs=offsets_E)
    out_NH = x_ND.new_zeros(x_ND.shape[0], weight_EDH.shape[2])
    for e, (start, stop) in enumerate(_spans(offsets_E)):
        out_NH[start:stop] = x_ND[start:stop] @ weight_EDH[e]
    return out_NH


@_product.register_fake
def _(x_ND: Tensor, weight_EDH: Tensor, offsets_E: Tensor) -> Tensor:
    return x_ND.new_empty(x_ND.shape[0], weight_EDH.shape[2])


@torch.library.custom_op("moezoo::grouped_mm_weight_grad", mutates_args=())
def _weight_grad(x_ND: Tensor, grad_NH: Tensor, offsets_E: Tensor) -> Tensor:
    """(E, D, H): per expert ``x^T grad`` over its rows; zeros for an expert without rows."""
    spans = _spans(offsets_E)
    return torch.stack([x_ND[start:stop].t() @ grad_NH[start:stop] for start, stop in spans])


@_weight_grad.register_fake
def _(x_ND: Tensor, grad_NH: Tensor, offsets_E: Tensor) -> Tensor:
    return x_ND.new_empty(offsets_E.shape[0], x_ND.shape[1], grad_NH.shape[1])


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx, grad_NH: Tensor) -> tuple[Tensor, Tensor, None]:
    x_ND, weight_EDH, offsets_E = ctx.saved_tensors
    grad_NH = grad_NH.contiguous()
    grad_x = _product(grad_NH, weight_EDH.transpose(-2, -1), offsets_E)
    return grad_x, _weight_grad(x_ND, grad_NH, offsets_E), None


_product.register_autograd(_backward, setup_context=_save)


def _spans(offsets_E: Tensor) -> list[tuple[int, int]]:
    stops = offsets_E.tolist()
    return list(zip([0, *stops[:-1]], stops, strict=True))
