"""``x w^T + b`` by the library that is fastest at it for the few rows that one expert has."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from moezoo.moe.types import has_values


def one_dnn(x: Tensor) -> bool:
    """Whether to call oneDNN where torch itself would call a BLAS: at few rows that one loses half its speed.

    In half precision torch calls oneDNN by itself.
    """
    return x.dtype == torch.float32 and x.device.type == "cpu" and _AVAILABLE and bool(torch.backends.mkldnn.enabled)


_AVAILABLE = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


FEW = 8
"""Rows up to which a BLAS is the faster one after all."""


def inferred(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``F.linear`` of ``x`` (R, I), by oneDNN where no gradient is wanted and nothing but numbers is computed."""
    plain = type(x) is Tensor and type(weight) in (Tensor, Parameter) and x.dtype == weight.dtype
    plain = plain and not torch._C._are_functorch_transforms_active()
    if torch.compiler.is_compiling() or torch.is_grad_enabled() or not plain or len(x) < FEW or not one_dnn(x):
        return F.linear(x, weight, bias)
    if torch.jit.is_tracing() or torch.is_autocast_enabled("cpu") or not has_values(x):
        return F.linear(x, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


VERY_FEW = 4
"""Rows up to which a CPU is faster at the transposed product."""


def product(x_ECD: Tensor, weight_EHD: Tensor, bias_EH: Tensor) -> Tensor:
    """(E, C, H): each expert's linear map of its C rows."""
    if not torch.compiler.is_compiling() and x_ECD.device.type == "cpu" and x_ECD.shape[1] <= VERY_FEW:
        return torch.baddbmm(bias_EH[..., None], weight_EHD, x_ECD.transpose(1, 2)).transpose(1, 2)
    return torch.baddbmm(bias_EH[:, None], x_ECD, weight_EHD.transpose(1, 2))


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(R, O) of ``x`` (R, I) and ``weight`` (O, I); without gradients, which the caller computes."""
    if one_dnn(x):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight, bias)
