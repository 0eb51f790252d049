"""Images made worse in a way that can be repeated: noise, blur and shift of pixels in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Corruption = Callable[[Tensor], Tensor]
"""(C, H, W) pixels in [0, 1] to the same shape. Randomness comes from torch's global generator."""


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of standard deviation ``std``, where white is 1."""

    std: float

    def __call__(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms.v2.functional import gaussian_noise

        return gaussian_noise(pixels, sigma=self.std)


@dataclass(frozen=True)
class Blur:
    """A Gaussian whose standard deviation is ``share`` of the shorter side."""

    share: float

    def __call__(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms.v2.functional import gaussian_blur

        side = min(pixels.shape[-2:])
        sigma = self.share * side
        # Three deviations hold 99.7 %; the padding mirrors the image, so it has to be smaller than that.
        radius = min(math.ceil(3 * sigma), side - 1)
        return gaussian_blur(pixels, [2 * radius + 1] * 2, [sigma] * 2)


@dataclass(frozen=True)
class Shift:
    """Moved by ``share`` of the shorter side into a random direction; the edge is repeated in what opens up."""

    share: float

    def __call__(self, pixels: Tensor) -> Tensor:
        from torchvision.transforms.v2.functional import crop, pad

        rows, columns = pixels.shape[-2:]
        far = max(self.share * min(rows, columns), 1.0)
        angle = 2 * math.pi * float(torch.rand(()))
        down, right = round(far * math.sin(angle)), round(far * math.cos(angle))
        border = math.ceil(far)
        padded = pad(pixels, [border], padding_mode="edge")
        return crop(padded, border - down, border - right, rows, columns)


CORRUPTIONS: Mapping[str, Sequence[Corruption]] = {
    "noise": (Noise(0.05), Noise(0.1), Noise(0.2)),
    "blur": (Blur(1 / 64), Blur(1 / 32), Blur(1 / 16)),
    "shift": (Shift(1 / 16), Shift(1 / 8), Shift(1 / 4)),
}
"""What :func:`moezoo.eval.robustness` applies unless told otherwise: by kind, from mild to strong."""


def corrupt(pixels: Tensor, corruption: Corruption, seeds: Sequence[int]) -> Tensor:
    """``corruption`` of each of the (B, C, H, W) images, drawn from its own seed: other batches, the same images."""
    with torch.random.fork_rng(devices=[]):
        changed = []
        for image, seed in zip(pixels, seeds, strict=True):
            torch.manual_seed(seed)
            changed.append(corruption(image))
    return torch.stack(changed)
