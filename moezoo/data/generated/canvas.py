"""What the generators share: a random stream for each image, and the way to the model's tensor."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from moezoo.data.options import PlainInput
from moezoo.errors import ConfigError

PARTS = ("train", "val", "test")


def image_stream(seed: int, part: str, *numbers: int) -> np.random.Generator:
    """The random numbers of one image, or of one purpose of it."""
    return np.random.default_rng([seed, PARTS.index(part), *numbers])


def check_at_least(low: int, **values: int) -> None:
    """Raises :class:`ConfigError` naming the first value that is smaller."""
    for name, value in values.items():
        if value < low:
            raise ConfigError(f"{name}={value!r} is not allowed: it must be at least {low}.")


def check_share(**values: float) -> None:
    """Raises :class:`ConfigError` naming the first value that is not from 0 to 1."""
    for name, value in values.items():
        if not 0 <= value <= 1:
            raise ConfigError(f"{name}={value!r} is not allowed: it must be from 0 to 1.")


class Stretch:
    """A drawn image to the normalised (C, H, W) tensor. Nothing is cut, so that places can be told in pixels."""

    def __init__(self, input: PlainInput):
        self.mode = input.mode
        self.resize = v2.Resize(input.input_size[1:], InterpolationMode(input.interpolation))
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (input.channel_mean, input.channel_std))

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = v2.functional.pil_to_tensor(self.resize(image.convert(self.mode))).float() / 255
        return (pixels - self.mean) / self.std
