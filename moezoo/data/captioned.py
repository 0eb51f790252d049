"""What a data set of images and sentences comes as."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from moezoo.data.items import ImageItems
from moezoo.data.skipped import Skipped
from moezoo.data.splits import Shown


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
