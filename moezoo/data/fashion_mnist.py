"""Fashion-MNIST, read by torchvision's own class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

from moezoo.data.arrays import array_splits, check_arrays
from moezoo.data.options import AUGMENTATION, VALIDATION, Augmentation, ImageInput, Validation
from moezoo.data.splits import Splits
from moezoo.errors import DataError

INPUT = ImageInput(input_size=(1, 28, 28))


def load_fashion_mnist(
    *,
    root: str,
    validation: Validation = VALIDATION,
    input: ImageInput = INPUT,
    augmentation: Augmentation = AUGMENTATION,
) -> Splits:
    """60,000 training images, of which validation is drawn, and 10,000 test images of 28 x 28, grey, in 10 classes.

    Args:
        root: Folder that holds ``FashionMNIST/raw``.
        validation: How validation is drawn of the training images, class by class.
        input: What the model takes; grey is repeated for 3 channels.
        augmentation: For training images.

    Raises:
        DataError: A file is missing, packed, cut, or images and labels do not fit each other.
    """
    folder = Path(root).expanduser()
    _check_files(folder)
    arrays, names = {}, tuple(FashionMNIST.classes)
    for part, prefix in (("train", "train"), ("test", "t10k")):
        where = f"{folder / 'FashionMNIST' / 'raw'}, files {prefix}-*"
        try:
            data = FashionMNIST(folder, train=part == "train", download=False)
        except (RuntimeError, ValueError, AssertionError, LookupError) as error:
            raise DataError(f"{where}: damaged or cut: {error or type(error).__name__}") from error
        pixels, labels = data.data.numpy(), data.targets.numpy().astype(np.int64)
        check_arrays(pixels, labels, classes=len(names), shape=(28, 28), where=where)
        arrays[part] = (pixels, labels)
    return array_splits(
        "fashion_mnist",
        arrays,
        label_names=names,
        input=input,
        augmentation=augmentation,
        validation=validation,
    )


def file_names() -> list[str]:
    """The four files, unpacked."""
    return [archive.removesuffix(".gz") for archive, _ in FashionMNIST.resources]


def _check_files(root: Path) -> None:
    raw = root / "FashionMNIST" / "raw"
    missing = [raw / name for name in file_names() if not (raw / name).is_file()]
    if missing:
        packed = [path for path in missing if path.with_name(path.name + ".gz").is_file()]
        hint = (
            f"they are there as .gz and must be unpacked: gunzip -k {raw}/*.gz"
            if len(packed) == len(missing)
            else f"moezoo data get fashion_mnist --root {root} downloads them"
        )
        listed = ", ".join(map(str, missing))
        raise DataError(f"fashion_mnist is not complete under root={str(root)!r}. Missing: {listed}; {hint}.")
    old = [root / "FashionMNIST" / "processed" / name for name in ("training.pt", "test.pt")]
    if all(path.is_file() for path in old):
        raise DataError(
            f"{old[0]} and {old[1].name} are pickles of an old torchvision, which would be read instead of the data "
            "set's own files: remove them."
        )
