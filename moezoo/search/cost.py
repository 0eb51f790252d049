"""What a design costs, found without memory for its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from moezoo.errors import ConfigError
from moezoo.measure.flops import flops
from moezoo.search.spaces.base import Space, Values


class Cost(NamedTuple):
    """Of one image."""

    flops: int
    """Executed; 2 per multiply-add. Every expert that a token may use counts, where their number varies."""
    parameters: int


def design_cost(space: Space, values: Values, assignments: Sequence[str] = ()) -> Cost:
    """Count the model of a design.

    Raises:
        ConfigError: The values, or ``assignments``, are not allowed.
    """
    model = space.on_meta(values, assignments).eval()
    return Cost(flops(model, one_image(model, device="meta")).executed, parameters(model))


def one_image(model: nn.Module, *, device: str = "cpu") -> torch.Tensor:
    """An image of zeros of the size that ``model`` says; several spectra where it looks at several."""
    size = tuple(model.pretrained_cfg["input_size"])  # type: ignore[index]
    spectra = len(getattr(model, "modalities", ()))
    return torch.zeros(1, *((spectra,) if spectra > 1 else ()), *size, device=device)


def parameters(model: nn.Module) -> int:
    """Numbers that are learnt."""
    return sum(parameter.numel() for parameter in model.parameters())


def check_window(window: tuple[float, float] | None) -> tuple[float, float] | None:
    """``window`` as two numbers.

    Raises:
        ConfigError: It is not a pair (low, high) of numbers with 0 <= low < high.
    """
    if window is None:
        return None
    try:
        low, high = (float(number) for number in window)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not 0 <= low < high:
        raise ConfigError(f"flops_window={window!r} is not allowed: it must be (low, high) with 0 <= low < high.")
    return low, high
