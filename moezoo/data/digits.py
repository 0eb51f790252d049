"""The 1,797 handwritten digits that come with scikit-learn: real images, no download.

They are 8 x 8 grey images of the digits 0 to 9 (UCI "Optical Recognition of Handwritten Digits"). The split
is stratified by class and drawn over all images, so the same writers occur in all three parts: the accuracy
says how well the digits are learnt, not how well new writers are read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.data.splits import ImageTensors, Splits
from moezoo.errors import ConfigError


def load_digits_splits(
    *,
    input_size: tuple[int, int, int] = (1, 32, 32),
    mean: tuple[float, ...] = (0.5,),
    std: tuple[float, ...] = (0.5,),
    augment: bool = True,
    degrees: float = 12.0,
    shift: float = 0.1,
    zoom: float = 0.1,
    split_seed: int = 0,
) -> Splits:
    """60 % train, 20 % validation, 20 % test.

    Args:
        input_size: (C, H, W) with C 1 or 3; images are enlarged bicubically, grey is repeated for 3 channels.
        mean: Subtracted per channel from pixels in [0, 1].
        std: Then divided by.
        augment: Rotate, shift and zoom the training images at random.
        degrees: Largest rotation to either side.
        shift: Largest shift as a fraction of the side.
        zoom: Largest change of size, as a fraction.
        split_seed: Draws the split. It is no training seed: runs of different seeds share their test images.

    Raises:
        ConfigError: A value that is not allowed, naming it.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    _check(input_size, mean, std, split_seed, degrees=degrees, shift=shift, zoom=zoom)
    raw = load_digits()
    pixels = torch.from_numpy(raw.images.astype(np.float32) / 16).unsqueeze(1)
    labels = torch.from_numpy(raw.target.astype(np.int64))

    every = np.arange(len(labels))
    rest, test = train_test_split(every, test_size=0.2, random_state=split_seed, stratify=raw.target)
    train, val = train_test_split(rest, test_size=0.25, random_state=split_seed, stratify=raw.target[rest])

    plain = _Prepare(input_size, mean, std)
    jittered = _Prepare(input_size, mean, std, _jitter(degrees, shift, zoom)) if augment else plain

    def part(chosen: np.ndarray, transform: _Prepare) -> ImageTensors:
        return ImageTensors(pixels[chosen], labels[chosen], transform, [f"digits image {i}" for i in chosen])

    return Splits(
        name="digits",
        train=part(train, jittered),
        val=part(val, plain),
        test=part(test, plain),
        label_names=tuple(str(name) for name in raw.target_names),
        mean=tuple(mean),
        std=tuple(std),
    )


class _Prepare:
    """From 8 x 8 pixels in [0, 1] to what the model takes. Done per read: 224 x 224 copies would fill the memory."""

    def __init__(
        self,
        input_size: tuple[int, int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        jitter: Callable[[Tensor], Tensor] | None = None,
    ):
        self.channels, *self.size = input_size
        self.mean, self.std = (torch.tensor(v).view(-1, 1, 1) for v in (mean, std))
        self.jitter = jitter

    def __call__(self, image: Tensor) -> Tensor:
        image = F.interpolate(image[None], size=self.size, mode="bicubic", align_corners=False)[0]
        image = image.clamp(0, 1)
        if self.jitter is not None:
            image = self.jitter(image)
        return (image.expand(self.channels, -1, -1) - self.mean) / self.std


def _jitter(degrees: float, shift: float, zoom: float) -> Callable[[Tensor], Tensor]:
    """A random affine map; what comes in from outside is black."""
    from torchvision.transforms import InterpolationMode, v2

    return v2.RandomAffine(
        degrees=degrees,
        translate=(shift, shift),
        scale=(1 - zoom, 1 + zoom),
        interpolation=InterpolationMode.BILINEAR,
    )


def _check(input_size, mean, std, split_seed, **amounts: float) -> None:
    if len(input_size) != 3 or input_size[0] not in (1, 3) or min(input_size) < 1:
        raise ConfigError(f"input_size={input_size!r} is not allowed for digits: it must be (1 or 3, height, width).")
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, input_size[0]):
            raise ConfigError(f"{name}={values!r} is not allowed: it must have 1 or {input_size[0]} values.")
    if min(std) <= 0:
        raise ConfigError(f"std={std!r} is not allowed: it must be above 0.")
    if not 0 <= split_seed < 2**32:
        raise ConfigError(f"split_seed={split_seed!r} is not allowed: it must be from 0 to 2**32 - 1.")
    for name, value in amounts.items():
        limit = 180 if name == "degrees" else 0.9
        if not 0 <= value <= limit:
            raise ConfigError(f"{name}={value!r} is not allowed: it must be from 0 to {limit}.")
