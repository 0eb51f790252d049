"""The nonlinearity between an expert's products and its derivative, written into buffers that are given."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moezoo.moe.activations import ACTIVATIONS

aten = torch.ops.aten


def hidden_into(out: Tensor, h: Tensor, activation: str, gated: bool) -> None:
    """``out`` (R, H) becomes ``act(h)``, or ``act(gate) * up`` of ``h`` (R, 2H)."""
    if not gated:
        _INTO[activation](h, out)
        return
    gate, up = h.chunk(2, dim=-1)
    torch.mul(ACTIVATIONS[activation](gate), up, out=out)


def hidden_backward_(dh: Tensor, da: Tensor, h: Tensor, activation: str, gated: bool) -> None:
    """``dh`` becomes the gradient of ``h``, where ``da`` (R, H) is that of the nonlinearity's result."""
    backward = _BACKWARD[activation]
    if not gated:
        backward(da, h, dh)
        return
    (gate, up), (dgate, dup) = h.chunk(2, dim=-1), dh.chunk(2, dim=-1)
    torch.mul(ACTIVATIONS[activation](gate), da, out=dup)
    backward(da * up, gate, dgate)


def _quick_gelu_into(h: Tensor, out: Tensor) -> None:
    torch.mul(h, 1.702, out=out)
    out.sigmoid_().mul_(h)


def _quick_gelu_backward(da: Tensor, h: Tensor, dh: Tensor) -> None:
    s = (1.702 * h).sigmoid()
    torch.mul(da, s + 1.702 * h * s * (1 - s), out=dh)


_INTO: dict[str, Callable[[Tensor, Tensor], object]] = {
    "gelu": lambda h, out: aten.gelu.out(h, out=out),
    "gelu_tanh": lambda h, out: aten.gelu.out(h, approximate="tanh", out=out),
    "quick_gelu": _quick_gelu_into,
    "relu": lambda h, out: torch.clamp_min(h, 0, out=out),
    "silu": lambda h, out: aten.silu.out(h, out=out),
}
_BACKWARD: dict[str, Callable[[Tensor, Tensor, Tensor], object]] = {
    "gelu": lambda da, h, dh: aten.gelu_backward.grad_input(da, h, grad_input=dh),
    "gelu_tanh": lambda da, h, dh: aten.gelu_backward.grad_input(da, h, approximate="tanh", grad_input=dh),
    "quick_gelu": _quick_gelu_backward,
    "relu": lambda da, h, dh: aten.threshold_backward.grad_input(da, h, 0, grad_input=dh),
    "silu": lambda da, h, dh: aten.silu_backward.grad_input(da, h, grad_input=dh),
}
