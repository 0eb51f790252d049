"""Linear maps by int8 weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.altered.rounding import LARGEST, plain
from moezoo.moe.tracing import has_values


def product(x: Tensor, values_HD: Tensor, scale_H: Tensor, bias: Tensor | None, *, whole: bool) -> Tensor:
    """``F.linear`` with the weight that ``values_HD * scale_H`` stands for.

    If ``whole``, on a CPU and without a gradient, in whole numbers: each row of ``x`` is rounded by a scale of its own.
    Else the weight becomes a plain one for the time of the product.
    """
    if whole and _takes_whole_numbers(x):
        return _whole_numbers(x, values_HD, scale_H, bias)
    # The sums of whole numbers are too large for float16.
    if _traced(x) or x.numel() >= x.shape[-1] ** 2 or _dtype_of_product(x) == torch.float16:
        return F.linear(x, plain(values_HD, scale_H).to(x.dtype), bias)
    y = F.linear(x, values_HD.to(x.dtype))  # few rows: scaling them is less work than scaling the weight
    y = (y * scale_H).to(y.dtype)
    return y if bias is None else y + bias.to(y.dtype)


def _traced(x: Tensor) -> bool:
    """Whether nothing may depend on how many rows there are."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing() or not has_values(x)


def _dtype_of_product(x: Tensor) -> torch.dtype:
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _takes_whole_numbers(x: Tensor) -> bool:
    return (
        not _traced(x)
        and type(x) in (Tensor, nn.Parameter)
        and x.device.type == "cpu"
        and x.numel() > 0
        and x.is_floating_point()
        and not torch._C._are_functorch_transforms_active()
        and not (torch.is_grad_enabled() and x.requires_grad)
    )


def _whole_numbers(x: Tensor, values_HD: Tensor, scale_H: Tensor, bias: Tensor | None) -> Tensor:
    x_ND = x.detach().reshape(-1, x.shape[-1]).float()
    scale_N1 = (x_ND.abs().amax(-1, keepdim=True) / LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
    # A row with NaN or infinity has such a scale, and so has its result.
    rounded_ND = torch.round(x_ND / scale_N1).to(torch.int8)
    y_NH = torch._int_mm(rounded_ND, values_HD.t()).to(torch.float32)
    y_NH.mul_(scale_N1).mul_(scale_H)
    if bias is not None:
        y_NH.add_(bias)
    return y_NH.to(_dtype_of_product(x)).reshape(*x.shape[:-1], -1)
