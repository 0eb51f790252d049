"""From the pictures of one sighting to one tensor; whatever is random is the same in all spectra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from moezoo.config import STRICT, option
from moezoo.data.options import PlainInput
from moezoo.errors import ConfigError


@dataclass(frozen=True)
class ReidAugmentation:
    """What is done to training images in re-identification."""

    __pydantic_config__ = STRICT

    augment: bool = option(True, "false: training images are prepared as test images are")
    hflip: float = option(0.5, "probability of a mirror image")
    pad: int = option(10, "pixels added around, of which a random crop is taken")
    re_prob: float = option(0.5, "probability that a random rectangle is erased")

    def __post_init__(self) -> None:
        for name in ("hflip", "re_prob"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not allowed: it must be from 0 to 1.")
        if self.pad < 0:
            raise ConfigError(f"pad={self.pad!r} is not allowed: it must be at least 0.")


class ReidPrepare:
    """M Pillow images to (M, C, H, W). Bodies are stretched to the size, never cropped, as is usual in this field."""

    def __init__(self, input: PlainInput, augmentation: ReidAugmentation | None = None):
        _, height, width = input.input_size
        self.mode = input.mode
        self.resize = v2.Resize((height, width), InterpolationMode(input.interpolation))
        steps: list = []
        if augmentation is not None and augmentation.augment:
            steps.append(v2.RandomHorizontalFlip(augmentation.hflip))
            if augmentation.pad:
                steps += [v2.Pad(augmentation.pad), v2.RandomCrop((height, width))]
        steps.append(_Normalise(input))
        if augmentation is not None and augmentation.augment and augmentation.re_prob:
            steps.append(v2.RandomErasing(augmentation.re_prob, scale=(0.02, 0.4)))
        self.steps = v2.Compose(steps)

    def __call__(self, images: Sequence[Image.Image]) -> Tensor:
        # Pillow resizes as timm does for the other data sets: smoothed when an image is made smaller.
        pictures = [v2.functional.pil_to_tensor(self.resize(image.convert(self.mode))) for image in images]
        return self.steps(torch.stack(pictures).float() / 255)


class _Normalise:
    def __init__(self, input: PlainInput):
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (input.channel_mean, input.channel_std))

    def __call__(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std
