"""Numbers rounded to int8 with a scale per output channel, and back."""

from __future__ import annotations

import torch
from torch import Tensor

LARGEST = 127


def to_int8(weight: Tensor, channel_dims: int) -> tuple[Tensor, Tensor]:
    """The nearest whole numbers in [-127, 127] of each output channel, and (…) float scales that give it back.

    Args:
        weight: Its first ``channel_dims`` axes are the channels: 1 of a layer (out, in, …), 2 of a stack (E, out, in).
    """
    exact = weight.detach().to(torch.promote_types(weight.dtype, torch.float32))
    scale = (exact.flatten(channel_dims).abs().amax(-1) / LARGEST).to(weight.dtype)
    scale = torch.where(scale > 0, scale, 1.0)  # a channel of zeros has any
    values = (exact / _beside(scale, exact).to(exact.dtype)).round().clamp(-LARGEST, LARGEST)
    return values.to(torch.int8), scale


def plain(values: Tensor, scale: Tensor) -> Tensor:
    """The numbers that they stand for."""
    return values.to(scale.dtype) * _beside(scale, values)


def _beside(scale: Tensor, values: Tensor) -> Tensor:
    return scale.reshape(*scale.shape, *[1] * (values.dim() - scale.dim()))
