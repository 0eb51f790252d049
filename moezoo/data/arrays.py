"""Labelled images that a file format hands over as one array: checked, divided, prepared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from moezoo.data.dividing import take_out
from moezoo.data.items import LabelledImages
from moezoo.data.options import Augmentation, ImageInput, Validation
from moezoo.data.splits import Splits
from moezoo.data.transforms import Prepare
from moezoo.errors import DataError


@dataclass(frozen=True)
class PixelReader:
    """Picks an image out of (N, H, W, 3) or (N, H, W) bytes."""

    pixels: np.ndarray

    def __call__(self, index: int) -> Image.Image:
        return Image.fromarray(self.pixels[index])


@dataclass(frozen=True)
class Numbered:
    """Names an image by its place in its file."""

    title: str

    def __call__(self, index: int) -> str:
        return f"{self.title} {index}"


def check_arrays(
    pixels: np.ndarray, labels: Sequence[int] | np.ndarray, *, classes: int, shape: tuple[int, ...], where: str
) -> None:
    """That there is one label per image, each of them below ``classes``, and that images have ``shape``.

    Raises:
        DataError: Naming ``where``.
    """
    if pixels.shape[1:] != shape or pixels.dtype != np.uint8:
        raise DataError(f"{where}: images must be bytes of shape {shape}, got {pixels.dtype} of {pixels.shape[1:]}")
    if len(pixels) != len(labels):
        raise DataError(f"{where}: {len(pixels)} images, but {len(labels)} labels")
    check_labels(np.asarray(labels), classes=classes, where=where)


def check_labels(labels: np.ndarray, *, classes: int, where: str) -> None:
    """That every label is from 0 to ``classes`` - 1; raises :class:`DataError` naming the first that is not."""
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if len(wrong):
        raise DataError(
            f"{where}: {len(wrong)} labels are out of range, the first is {labels[wrong[0]]} of image {wrong[0]}; "
            f"there are {classes} classes, numbered from 0 to {classes - 1}"
        )


def array_splits(
    name: str,
    arrays: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    label_names: tuple[str, ...],
    input: ImageInput,
    augmentation: Augmentation,
    validation: Validation,
) -> Splits:
    """The splits of ``arrays["train"]``, of which validation is drawn, and ``arrays["test"]``: (pixels, labels)."""
    train, val = take_out(arrays["train"][1], validation.val_fraction, validation.split_seed)
    chosen = {"train": ("train", train), "val": ("train", val), "test": ("test", np.arange(len(arrays["test"][1])))}
    parts = {}
    for part, (file, indices) in chosen.items():
        if not len(indices):
            raise DataError(f"{name} has too few images: its {part} part is empty")
        pixels, labels = arrays[file]
        parts[part] = LabelledImages(
            indices.tolist(),
            labels[indices].tolist(),
            Prepare(input, augmentation if part == "train" else None),
            read=PixelReader(pixels),
            name_of=Numbered(f"{name} {file} image"),
        )
    return Splits(name, **parts, label_names=label_names, mean=input.channel_mean, std=input.channel_std)
