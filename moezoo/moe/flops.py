"""Formulas for the operations an MoE path uses and torch's own counter takes for free."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

import moezoo.moe.paths.grouped_mm  # noqa: F401  (registers moezoo's operators)
from moezoo.moe.tracing import has_values


def grouped_mm_flops(a: Tensor, b: Tensor, offs: Tensor | None = None, *_: Any, out_val: Tensor, **__: Any) -> int:
    """FLOPs of ``torch._grouped_mm``.

    (N, D) x (E, D, H) computes the rows before the last offset; (D, N) x (N, H), its weight gradient, sums over them.
    """
    if a.dim() == 3 and b.dim() == 3:
        return 2 * a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2]
    ragged = a.shape[0] if b.dim() == 3 else a.shape[1] if a.dim() == 2 else b.shape[1]
    rows = int(offs[-1]) if offs is not None and has_values(offs) and len(offs) else ragged
    if b.dim() == 3:
        return 2 * rows * b.shape[1] * b.shape[2]
    if a.dim() == 2:
        return 2 * rows * a.shape[0] * b.shape[1]
    return 2 * rows * a.shape[1] * a.shape[2]


grouped_mm_flops._get_raw = True  # type: ignore[attr-defined]  # FlopCounterMode then hands over tensors, not shapes


def weight_grad_flops(x_ND: Tensor, grad_NH: Tensor, offs: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """FLOPs of the weight gradient of :func:`moezoo.moe.paths.grouped_mm.grouped_mm`."""
    return grouped_mm_flops(x_ND.t(), grad_NH, offs, out_val=out_val)


weight_grad_flops._get_raw = True  # type: ignore[attr-defined]


def packed_linear_flops(x: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """FLOPs of oneDNN's linear layer: (…, D) to (…, H)."""
    return 2 * math.prod(x) * out_shape[-1]


def native_flops(x: Any, sizes: Any, w_in: Any, b_in: Any, w_out: Any, *_: Any, **__: Any) -> int:
    """FLOPs of the C++ kernel's forward pass: both products of every row."""
    return 2 * x[0] * (math.prod(w_in[1:]) + math.prod(w_out[1:]))


def native_backward_flops(dy: Any, x: Any, sizes: Any, w_in: Any, b_in: Any, w_out: Any, *rest: Any, **__: Any) -> int:
    """FLOPs of its backward pass: the gradient of the hidden units, and as wanted of the rows and of the weights."""
    for_x, for_weights = rest[-2:]
    first, second = 2 * x[0] * math.prod(w_in[1:]), 2 * x[0] * math.prod(w_out[1:])
    return second + for_x * first + for_weights * (first + second)


def count_native() -> None:
    """Add the C++ kernel, whose operators exist once it is built, to :data:`FLOP_FORMULAS`."""
    FLOP_FORMULAS[torch.ops.moezoo_native.forward] = native_flops
    FLOP_FORMULAS[torch.ops.moezoo_native.backward] = native_backward_flops


FLOP_FORMULAS: dict[Any, Any] = {
    torch.ops.aten._grouped_mm: grouped_mm_flops,
    torch.ops.moezoo.grouped_mm: grouped_mm_flops,
    torch.ops.moezoo.grouped_mm_weight_grad: weight_grad_flops,
    **(
        {torch.ops.mkldnn._linear_pointwise: packed_linear_flops}
        if hasattr(torch.ops.mkldnn, "_linear_pointwise")
        else {}
    ),
}
"""For ``FlopCounterMode(custom_mapping=…)``."""
