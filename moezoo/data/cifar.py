"""CIFAR-10 and CIFAR-100, read by torchvision's own classes behind their md5 sums.

The files are pickles. torchvision compares the md5 of each before it opens it, and nothing here goes around that.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100
from torchvision.datasets.utils import calculate_md5

from moezoo.data.arrays import array_splits, check_arrays
from moezoo.data.options import AUGMENTATION, VALIDATION, Augmentation, ImageInput, Validation
from moezoo.data.splits import Splits
from moezoo.errors import DataError

INPUT = ImageInput(input_size=(3, 32, 32))


def load_cifar10(
    *,
    root: str,
    validation: Validation = VALIDATION,
    input: ImageInput = INPUT,
    augmentation: Augmentation = AUGMENTATION,
) -> Splits:
    """50,000 training images, of which validation is drawn, and 10,000 test images of 32 x 32, in 10 classes.

    Args:
        root: Folder that holds ``cifar-10-batches-py``.
        validation: How validation is drawn of the training images, class by class.
        input: What the model takes.
        augmentation: For training images.

    Raises:
        DataError: A file is missing, or its md5 is not the published one.
    """
    return cifar_splits("cifar10", CIFAR10, root, validation, input, augmentation)


def load_cifar100(
    *,
    root: str,
    validation: Validation = VALIDATION,
    input: ImageInput = INPUT,
    augmentation: Augmentation = AUGMENTATION,
) -> Splits:
    """As CIFAR-10, in 100 classes (the fine labels).

    Args:
        root: Folder that holds ``cifar-100-python``.
        validation: How validation is drawn of the training images, class by class.
        input: What the model takes.
        augmentation: For training images.

    Raises:
        DataError: A file is missing, or its md5 is not the published one.
    """
    return cifar_splits("cifar100", CIFAR100, root, validation, input, augmentation)


def cifar_splits(
    name: str,
    source: type[CIFAR10],
    root: str,
    validation: Validation,
    input: ImageInput,
    augmentation: Augmentation,
) -> Splits:
    """The splits of files in CIFAR's format, of which ``source`` knows the names and md5 sums."""
    folder = Path(root).expanduser()
    _check_files(name, source, folder)
    arrays, classes = {}, []
    for part in ("train", "test"):
        data = source(folder, train=part == "train", download=False)
        classes = data.classes
        labels = np.asarray(data.targets, dtype=np.int64)
        where = f"{folder / source.base_folder}, {part} files"
        check_arrays(data.data, labels, classes=len(classes), shape=(32, 32, 3), where=where)
        arrays[part] = (data.data, labels)
    return array_splits(
        name,
        arrays,
        label_names=tuple(classes),
        input=input,
        augmentation=augmentation,
        validation=validation,
    )


def _check_files(name: str, source: type[CIFAR10], root: Path) -> None:
    """What torchvision checks too, but it does not say which file is at fault."""
    folder = root / source.base_folder
    sums = dict([*source.train_list, *source.test_list, [source.meta["filename"], source.meta["md5"]]])
    missing = [str(folder / file) for file in sums if not (folder / file).is_file()]
    if missing:
        archive = root / source.filename
        hint = (
            f"unpack {archive} there"
            if archive.is_file()
            else f"moezoo data get {name} --root {root} downloads it"
            if name in ("cifar10", "cifar100")
            else "check root="
        )
        raise DataError(f"{name} is not complete under root={str(root)!r}. Missing: {', '.join(missing)}; {hint}.")
    for file, md5 in sums.items():
        got = calculate_md5(folder / file)
        if got != md5:
            raise DataError(
                f"{folder / file} is not the published file: its md5 is {got}, not {md5}. It is a pickle, which could "
                "run anything, so it is not opened. Delete it and get it again."
            )
