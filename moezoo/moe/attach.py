"""A loss that rides on a tensor: its gradient joins in the backward pass without the loss being added anywhere."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Switch:
    """Turns off the losses that ride with it, also between forward and backward."""

    def __init__(self) -> None:
        self.on = True


def attach_loss(tensor: Tensor, loss: Tensor, switch: Switch | None = None) -> Tensor:
    """``tensor`` unchanged; every backward pass through it adds the gradient of ``loss``, whatever arrives.

    Args:
        tensor: Passed through.
        loss: A scalar with a graph.
        switch: Consulted in the backward pass; off makes the loss's gradient zero.
    """
    return _Attach.apply(tensor, loss, switch)


class _Attach(torch.autograd.Function):
    @staticmethod
    def forward(tensor: Tensor, loss: Tensor, switch: Switch | None) -> Tensor:
        # A copy: autograd refuses to let a view made in here be changed in place, as the next layer may do.
        return tensor.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, loss, ctx.switch = inputs
        ctx.dtype, ctx.device = loss.dtype, loss.device

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        on = ctx.switch is None or ctx.switch.on
        return grad, torch.full((), float(on), dtype=ctx.dtype, device=ctx.device), None
