"""Data sets of images that are read when they are asked for, from files, archives or a generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from moezoo.data.images import read_image
from moezoo.data.skipped import Skipped
from moezoo.errors import UnreadableImage


class ImageItems(Dataset):
    """Base: reads, prepares and names images; the item itself is up to the subclass.

    Args:
        items: What ``read`` takes, one per image: paths, row numbers, …
        transform: From what ``read`` returns to a tensor.
        read: Returns a Pillow image (or several), or raises :class:`~moezoo.errors.UnreadableImage`.
        name_of: From an item to what a person would look for, such as its path.
        skip_unreadable: Return :class:`~moezoo.data.Skipped` where ``read`` raises. For training parts only.
    """

    def __init__(
        self,
        items: Sequence[Any],
        transform: Callable[[Any], Tensor],
        *,
        read: Callable[[Any], Any] = read_image,
        name_of: Callable[[Any], str] = str,
        skip_unreadable: bool = False,
    ):
        self.items = items
        self.transform = transform
        self.read = read
        self.name_of = name_of
        self.skip_unreadable = skip_unreadable

    def __len__(self) -> int:
        return len(self.items)

    def image(self, index: int) -> Tensor | Skipped:
        """The prepared image alone."""
        try:
            image = self.read(self.items[index])
        except UnreadableImage as error:
            if not self.skip_unreadable:
                raise
            return Skipped(error.path, error.reason or str(error))
        return self.transform(image)

    def describe(self, index: int) -> str:
        """Where the image comes from: its path, or its row or number in the data set."""
        return self.name_of(self.items[index])


class LabelledImages(ImageItems):
    """Items ``(image, label)``: a (C, H, W) tensor and an int. ``labels`` is one int per item."""

    def __init__(self, items: Sequence[Any], labels: Sequence[int], transform: Callable[[Any], Tensor], **reading: Any):
        super().__init__(items, transform, **reading)
        self.labels = labels

    def __getitem__(self, index: int) -> tuple[Tensor, int] | Skipped:
        image = self.image(index)
        return image if isinstance(image, Skipped) else (image, int(self.labels[index]))
