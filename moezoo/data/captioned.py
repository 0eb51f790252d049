"""What a data set of images and sentences comes as."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from moezoo.data.items import ImageItems
from moezoo.data.skipped import Skipped
from moezoo.data.splits import Shown
from moezoo.errors import DataError


class CaptionedImages(ImageItems):
    """Items ``(image, captions)``: a (C, H, W) tensor and a tuple of sentences, one or more, all of that image."""

    def __init__(
        self,
        items: Sequence[Any],
        captions: Sequence[tuple[str, ...]],
        transform: Callable[[Any], Tensor],
        **reading: Any,
    ):
        super().__init__(items, transform, **reading)
        self._captions = captions

    def captions(self, index: int) -> tuple[str, ...]:
        """The sentences alone; the image is not read."""
        return self._captions[index]

    def __getitem__(self, index: int) -> tuple[Tensor, tuple[str, ...]] | Skipped:
        image = self.image(index)
        return image if isinstance(image, Skipped) else (image, self.captions(index))


C = TypeVar("C", bound=CaptionedImages)


def derangement(number: int, seed: int = 0) -> np.ndarray:
    """(number,) For each index another one, no two the same; one fixed circle through all of them per seed.

    Raises:
        DataError: There are fewer than two.
    """
    if number < 2:
        raise DataError(f"captions of {number} image cannot be shuffled: there must be two or more")
    order = np.random.RandomState(seed).permutation(number)
    others = np.empty(number, dtype=np.int64)
    others[order] = np.roll(order, 1)
    return others


def shuffled_captions(images: C, seed: int = 0) -> C:
    """The same images, each with the sentences of another one: a control that shows what the match is worth.

    Args:
        images: Two or more.
        seed: Draws who gets whose; the same each time.

    Raises:
        DataError: There is only one image.
    """
    other = copy.copy(images)
    other._captions = [images.captions(int(i)) for i in derangement(len(images), seed)]
    return other


@dataclass(frozen=True)
class CaptionedSplits(Shown):
    """Images and sentences in three parts, divided by image: no image has captions in two of them."""

    name: str
    train: CaptionedImages
    val: CaptionedImages
    test: CaptionedImages
    mean: tuple[float, ...]
    std: tuple[float, ...]
    left_out: tuple[Skipped, ...] = ()
    """What the data set lists and does not have, or has and does not use."""
