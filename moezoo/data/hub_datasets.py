"""Image data sets in the format of Hugging Face ``datasets``: on disk, or on the Hub by their id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moezoo.data.arrays import check_labels
from moezoo.data.dividing import Samples, complete
from moezoo.data.images import decode_image, read_image
from moezoo.data.items import LabelledImages
from moezoo.data.options import AUGMENTATION, HELD_OUT, IMAGE_INPUT, Augmentation, HeldOut, ImageInput
from moezoo.data.splits import Splits
from moezoo.data.transforms import Prepare
from moezoo.errors import ConfigError, DataError, MissingPackageError, UnreadableImage
from moezoo.names import did_you_mean

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")
"""Looked for, in this order, if no single column is of the type for class labels."""


def load_hf(
    *,
    path: str,
    config_name: str | None = None,
    revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    train_split: str = "train",
    val_split: str | None = None,
    test_split: str | None = None,
    held_out: HeldOut = HELD_OUT,
    input: ImageInput = IMAGE_INPUT,
    augmentation: Augmentation = AUGMENTATION,
) -> Splits:
    """A data set of Hugging Face ``datasets`` with one column of images and one of labels.

    Args:
        path: A folder written by ``save_to_disk``, a folder of parquet files or images, or an id on the Hub.
        config_name: Which configuration, if there are several.
        revision: Branch, tag or commit on the Hub.
        image_column: By default the only column of images.
        label_column: By default the only column of class labels, or one named label, labels, fine_label, …
        train_split: Name of the training part.
        val_split: Name of the validation part; by default validation, val, valid or dev, if there is one.
        test_split: Name of the test part; by default test, if there is one.
        held_out: How missing parts are drawn, class by class.
        input: What the model takes.
        augmentation: For training images.

    Raises:
        MissingPackageError: ``datasets`` is not installed.
        DataError: There is no such data set, or it cannot be reached, or its labels are out of range.
        ConfigError: A column or part does not exist, or must be named.
    """
    tables = _open(path, config_name, revision)
    names = {
        "train": _split(tables, "train_split", train_split, ()),
        "val": _split(tables, "val_split", val_split, ("validation", "val", "valid", "dev")),
        "test": _split(tables, "test_split", test_split, ("test",)),
    }
    if names["train"] is None:
        raise ConfigError(f"train_split={train_split!r} is not in {path!r}; it has: {', '.join(tables)}.")
    chosen = {part: tables[name] for part, name in names.items() if name is not None}
    images, labels = _columns(chosen["train"], image_column, label_column)
    label_names, numbers = _label_names(chosen, labels)
    parts = complete(
        {
            part: Samples([(names[part], row) for row in range(len(table))], _labels(table, labels, numbers))
            for part, table in chosen.items()
        },
        held_out,
        path,
    )
    for part, samples in parts.items():
        check_labels(samples.labels, classes=len(label_names), where=f"{path}, {part} part, column {labels!r}")
    reader = _RowReader(path, {str(names[part]): _undecoded(table, images) for part, table in chosen.items()}, images)
    data = {
        part: LabelledImages(
            samples.items,
            samples.labels.tolist(),
            Prepare(input, augmentation if part == "train" else None),
            read=reader,
            name_of=reader.name_of,
            skip_unreadable=part == "train",
        )
        for part, samples in parts.items()
    }
    return Splits(f"hf:{path}", **data, label_names=label_names, mean=input.channel_mean, std=input.channel_std)


@dataclass(frozen=True)
class _RowReader:
    """Reads an image out of a row ``(split, number)`` with our own reader, not with the package's."""

    path: str
    tables: dict[str, Any]
    column: str

    def __call__(self, item: tuple[str, int]) -> Image.Image:
        split, row = item
        cell = self.tables[split][row][self.column]
        if cell is None or (cell["bytes"] is None and cell["path"] is None):
            raise UnreadableImage(self.name_of(item), "has no image")
        if cell["bytes"] is not None:
            return decode_image(cell["bytes"], self.name_of(item))
        return read_image(cell["path"])

    def name_of(self, item: tuple[str, int]) -> str:
        return f"{self.path}, {item[0]} row {item[1]}"


def _open(path: str, config_name: str | None, revision: str | None) -> dict[str, Any]:
    """The tables by the name of their split."""
    try:
        import datasets
    except ImportError:
        raise MissingPackageError('the data set "hf" needs: pip install "moezoo[datasets]"') from None
    folder = Path(path).expanduser()
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            found = datasets.load_from_disk(str(folder))
        else:
            found = datasets.load_dataset(str(folder) if folder.is_dir() else path, config_name, revision=revision)
    except Exception as error:  # readers of many formats and a network stand behind this call
        raise DataError(
            f"hf: path={path!r} cannot be loaded, neither as a folder ({folder}) nor as an id on the Hub: "
            f"{type(error).__name__}: {error}"
        ) from error
    return dict(found) if isinstance(found, dict) else {"train": found}


def _split(tables: dict[str, Any], option: str, given: str | None, usual: tuple[str, ...]) -> str | None:
    if given is None:
        return next((name for name in usual if name in tables), None)
    if given not in tables:
        raise ConfigError(
            f"{option}={given!r} is not in the data set.{did_you_mean(given, tables)} It has: {', '.join(tables)}."
        )
    return given


def _columns(table: Any, image: str | None, label: str | None) -> tuple[str, str]:
    """The two columns, given or found."""
    import datasets

    features = table.features
    for option, given in (("image_column", image), ("label_column", label)):
        if given is not None and given not in features:
            raise ConfigError(
                f"{option}={given!r} is not in the data set.{did_you_mean(given, features)} "
                f"It has: {', '.join(features)}."
            )
    if image is None:
        image = _only("image_column", [n for n, f in features.items() if isinstance(f, datasets.Image)], features)
    elif not isinstance(features[image], datasets.Image):
        raise ConfigError(f"image_column={image!r} holds no images but {features[image]}.")
    if label is None:
        classes = [n for n, f in features.items() if isinstance(f, datasets.ClassLabel)]
        usual = [n for n in LABEL_COLUMNS if n in features][:1]
        label = _only("label_column", classes or usual, features)
    return image, label


def _only(option: str, found: list[str], features: Any) -> str:
    if len(found) != 1:
        which = f"could be any of {', '.join(found)}" if found else "is not clear"
        raise ConfigError(f"{option} must be given: it {which}. The data set has: {', '.join(features)}.")
    return found[0]


def _label_names(tables: dict[str, Any], column: str) -> tuple[tuple[str, ...], dict[Any, int] | None]:
    """The classes, and the number of each value where the column has values instead of numbers."""
    import datasets

    feature = tables["train"].features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), None
    values = sorted(set(tables["train"][column]), key=lambda v: (isinstance(v, str), v))
    if not values or not all(isinstance(v, str | int) for v in values):
        raise ConfigError(f"label_column={column!r} must hold class labels, ints or strings, not {feature}.")
    return tuple(map(str, values)), {value: i for i, value in enumerate(values)}


def _labels(table: Any, column: str, numbers: dict[Any, int] | None) -> np.ndarray:
    values = list(table[column])
    if numbers is not None:
        values = [numbers.get(value, -1) for value in values]
    return np.array([-1 if value is None else value for value in values], dtype=np.int64)


def _undecoded(table: Any, column: str) -> Any:
    import datasets

    return table.cast_column(column, datasets.Image(decode=False)).select_columns([column])
