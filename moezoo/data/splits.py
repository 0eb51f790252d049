"""What a classification data set comes as: three torch data sets of prepared images, and what it takes to show them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from moezoo.errors import InputError


class Shown:
    """Base of the results: how normalised images become pixels again."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_pixels(self, images: Tensor) -> Tensor:
        """(..., C, H, W) normalised images back to pixel values in [0, 1], for pictures."""
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images * std + mean).clamp(0, 1)


@dataclass(frozen=True)
class Splits(Shown):
    """A data set in three parts of items ``(image, label)``: a normalised (C, H, W) tensor and an int.

    In the place of an item the training part may hand out a :class:`~moezoo.data.Skipped`, for a file that cannot
    be read. Every part of a data set of moezoo's own says with ``part.describe(index)`` where an item comes from.
    """

    name: str
    train: Dataset
    """Augmented; its items differ from one read to the next."""
    val: Dataset
    """What choices are made on: never augmented."""
    test: Dataset
    """What is reported, once."""
    label_names: tuple[str, ...]
    """The name of class i at index i."""
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def num_classes(self) -> int:
        return len(self.label_names)


class ImageTensors(Dataset):
    """Images that fit into memory, with an optional transform per read.

    Args:
        images: (N, C, H, W).
        labels: (N,) integers.
        transform: Applied to the (C, H, W) image whenever an item is read.
        names: (N,) What :meth:`describe` calls the images; by default their numbers.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        transform: Callable[[Tensor], Tensor] | None = None,
        names: list[str] | None = None,
    ):
        if images.dim() != 4 or labels.shape != images.shape[:1]:
            raise InputError(
                f"images must be (N, C, H, W) with N labels, got {tuple(images.shape)} and {tuple(labels.shape)}"
            )
        self.images = images
        self.labels = labels
        self.transform = transform
        self.names = names

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self.images[index]
        return self.transform(image) if self.transform else image, int(self.labels[index])

    def describe(self, index: int) -> str:
        """Where the image comes from."""
        return self.names[index] if self.names else f"image {index}"
