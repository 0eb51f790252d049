"""A folder of images, one subfolder per class, with or without parts."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from torchvision.datasets.folder import make_dataset

from moezoo.data.dividing import Samples, complete
from moezoo.data.images import EXTENSIONS
from moezoo.data.items import LabelledImages
from moezoo.data.options import AUGMENTATION, HELD_OUT, IMAGE_INPUT, Augmentation, HeldOut, ImageInput
from moezoo.data.splits import Splits
from moezoo.data.transforms import Prepare
from moezoo.errors import DataError

logger = logging.getLogger(__name__)

PARTS = {"train": ("train", "training"), "val": ("val", "valid", "validation"), "test": ("test", "testing")}
"""What their folders are called, in small letters or capitals."""


def load_image_folder(
    *,
    root: str,
    held_out: HeldOut = HELD_OUT,
    input: ImageInput = IMAGE_INPUT,
    augmentation: Augmentation = AUGMENTATION,
) -> Splits:
    """Your own images: ``root/{train,val,test}/<class>/`` or ``root/<class>/``; files may lie deeper, too.

    Args:
        root: The folder.
        held_out: How missing parts are drawn, class by class. With ``val`` and no ``test`` folder, ``val`` is the
            test and validation is drawn from ``train``.
        input: What the model takes.
        augmentation: For training images.

    Raises:
        DataError: The layout is another, a class is empty, or a class of ``val`` or ``test`` is not in ``train``.
    """
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise DataError(f"image_folder: root={str(folder)!r} is not a folder; {_layouts(folder)}")
    names, parts = _laid_out(folder)
    parts = complete(parts, held_out, str(folder))
    data = {
        part: LabelledImages(
            samples.items,
            samples.labels.tolist(),
            Prepare(input, augmentation if part == "train" else None),
            skip_unreadable=part == "train",
        )
        for part, samples in parts.items()
    }
    name = f"image_folder:{folder.resolve().name}"
    return Splits(name, **data, label_names=tuple(names), mean=input.channel_mean, std=input.channel_std)


def _laid_out(folder: Path) -> tuple[list[str], dict[str, Samples]]:
    """The classes, and those of the three parts that there are; ``train`` alone where nothing is divided."""
    here = {name.lower(): folder / name for name in _classes(folder)}
    found = {part: [here[name] for name in names if name in here][:1] for part, names in PARTS.items()}
    places = {part: paths[0] for part, paths in found.items() if paths}
    names = _classes(places["train"]) if "train" in places else []
    loose = _loose_image(places["train"]) if names else None
    if names and loose is None:
        return names, {part: _samples(path, names) for part, path in places.items()}
    if names and len(places) > 1:
        raise DataError(
            f"image_folder: {places['train']} holds images beside its class folders, such as {loose}; "
            + _layouts(folder)
        )
    if here and not set(here).difference(*PARTS.values()):
        listed = ", ".join(map(str, places.values()))
        raise DataError(f"image_folder: found {listed}, but no class folders in a train folder; {_layouts(folder)}")
    names = _classes(folder)
    if not names:
        what = "images, but no class folders" if _loose_image(folder) else "no class folders"
        raise DataError(f"image_folder: {folder} holds {what}; {_layouts(folder)}")
    return names, {"train": _samples(folder, names)}


def _samples(folder: Path, names: list[str]) -> Samples:
    """The images of every class, sorted, numbered by the place of the class in ``names``."""
    here = _classes(folder)
    unknown = [name for name in here if name not in names]
    if unknown:
        raise DataError(f"image_folder: {folder / unknown[0]} is a class that the training part does not have")
    labels = {name: i for i, name in enumerate(names)}
    found = make_dataset(str(folder), labels, is_valid_file=_shown_below(folder), allow_empty=True)
    counts = np.bincount([label for _, label in found], minlength=len(names))
    empty = [folder / name for name in here if counts[labels[name]] == 0]
    if empty:
        raise DataError(
            f"image_folder: no images in {', '.join(map(str, empty))}; "
            f"endings looked for: {' '.join(sorted(EXTENSIONS))}"
        )
    absent = [name for name in names if name not in here]
    if absent:
        logger.warning("%s has no images of %d classes: %s", folder, len(absent), ", ".join(absent[:10]))
    return Samples([path for path, _ in found], np.array([label for _, label in found], dtype=np.int64))


def is_image_name(path: str) -> bool:
    """Whether the ending is an image's and the file no hidden one (``._a.jpg`` is what a Mac leaves in archives)."""
    name = Path(path).name
    return Path(name).suffix.lower() in EXTENSIONS and not name.startswith(".")


def _shown_below(folder: Path) -> Callable[[str], bool]:
    """Whether a path is of an image and in no hidden folder: editors keep copies there."""
    start = len(str(folder))
    return lambda path: is_image_name(path) and f"{os.sep}." not in path[start:]


def _classes(folder: Path) -> list[str]:
    """Class folders in the order of their labels, which is torchvision's."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def _loose_image(folder: Path) -> Path | None:
    """An image in ``folder`` itself, if there is one."""
    return next((p for p in folder.iterdir() if p.is_file() and is_image_name(p.name)), None)


def _layouts(folder: Path) -> str:
    return f"looked for {folder}/train/<class>/*.jpg, or {folder}/<class>/*.jpg"
