"""``x w^T + b`` by the library that is fastest at it for the few rows that one expert has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F


def one_dnn(x: Tensor) -> bool:
    """Whether to call oneDNN where torch itself would call a BLAS: at few rows that one loses half its speed.

    In half precision torch calls oneDNN by itself.
    """
    return x.dtype == torch.float32 and x.is_cpu and _AVAILABLE and bool(torch.backends.mkldnn.enabled)


_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


ENOUGH = 2**21
"""Multiply-adds from which oneDNN pays: a call of it costs some microseconds more than one of a BLAS."""

LEAST_ROWS = 8
"""Fewer rows count as so many: their product waits for the weight, which oneDNN reads faster."""

VERY_FEW = 4
"""Rows up to which a CPU is fastest at the transposed product."""


def inferred(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear`` of ``x`` (R, I), by oneDNN where that pays and :func:`infers`, and where the weight is packed."""
    packed = type(weight) is Tensor and weight.is_mkldnn
    if packed or (infers(x, weight) and pays(x.shape[0], weight)):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)


def infers(x: Tensor, weight: Tensor) -> bool:
    """Whether no gradient is wanted and nothing but numbers is computed, of a dtype that torch leaves to a BLAS."""
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not one_dnn(x) or x.dtype != weight.dtype:
        return False
    if type(x) is not Tensor or type(weight) not in (Tensor, Parameter):
        return False
    return not (
        torch._C._is_tracing() or torch.is_autocast_enabled("cpu") or torch._C._are_functorch_transforms_active()
    )


def pays(rows: int, weight: Tensor) -> bool:
    """Whether oneDNN is the faster library at the product of so many rows with ``weight`` (…, O, I).

    Never in a graph: it serves any number of rows.
    """
    if torch.compiler.is_compiling():
        return False
    *_, out, width = weight.shape
    return rows > 0 and max(rows, LEAST_ROWS) * out * width >= ENOUGH


def product(x_ECD: Tensor, weight_EHD: Tensor, bias_EH: Tensor) -> Tensor:
    """(E, C, H): each expert's linear map of its C rows."""
    weight_EHD, bias_EH = weight_EHD.to(x_ECD.dtype), bias_EH.to(x_ECD.dtype)
    C = x_ECD.shape[1]
    if not torch.compiler.is_compiling() and x_ECD.device.type == "cpu" and C <= VERY_FEW:
        return torch.baddbmm(bias_EH[..., None], weight_EHD, x_ECD.transpose(1, 2)).transpose(1, 2)
    if infers(x_ECD, weight_EHD) and pays(C, weight_EHD):
        each = zip(x_ECD.unbind(0), weight_EHD.unbind(0), bias_EH.unbind(0), strict=True)
        return torch.stack([inferred(x, w, b) for x, w, b in each])
    return torch.baddbmm(bias_EH[:, None], x_ECD, weight_EHD.transpose(1, 2))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(R, O) of ``x`` (R, I) and ``weight`` (O, I); without gradients, which the caller computes."""
    if one_dnn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
