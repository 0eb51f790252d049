"""Image data sets in the format of Hugging Face ``datasets``: on disk, or on the Hub by their id."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from moezoo.data.arrays import check_labels
from moezoo.data.dividing import Samples, complete
from moezoo.data.hub_columns import class_names, class_numbers, find_columns
from moezoo.data.images import decode_image, read_image
from moezoo.data.items import LabelledImages
from moezoo.data.options import AUGMENTATION, HELD_OUT, IMAGE_INPUT, Augmentation, HeldOut, ImageInput
from moezoo.data.splits import Splits
from moezoo.data.transforms import Prepare
from moezoo.errors import ConfigError, DataError, MissingPackageError, UnreadableImage
from moezoo.names import did_you_mean

USUAL_SPLITS = {"val": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""What parts that are not named are called."""


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
        val_split: Name of the validation part; by default validation, val, valid or dev, if there is such a part and it
            is not named as another.
        test_split: Name of the test part; by default test, in the same way. Where its labels are not published, name
            the validation part here: another is drawn for validation.
        held_out: How missing parts are drawn, class by class.
        input: What the model takes.
        augmentation: For training images.

    Raises:
        MissingPackageError: ``datasets`` is not installed.
        DataError: There is no such data set, or it cannot be reached, or its labels are out of range.
        ConfigError: A column or part does not exist, must be named, or one part is named twice.
    """
    tables = _open(path, config_name, revision)
    names = _splits(tables, train=train_split, val=val_split, test=test_split)
    images, labels = find_columns(tables[names["train"]], image_column, label_column)
    label_names, numbers = class_names(tables[names["train"]], labels)
    found = {}
    for part, name in names.items():
        for column in (images, labels):
            if column not in (columns := tables[name].features):
                raise DataError(f"{path}: part {name!r} has no column {column!r}; it has: {', '.join(columns)}")
        where = f"{path}, part {name!r}, column {labels!r}"
        values = class_numbers(tables[name], labels, label_names, numbers, where)
        check_labels(values, classes=len(label_names), where=where)
        found[part] = Samples([(name, row) for row in range(len(values))], values)
    parts = complete(found, held_out, path)
    reader = _RowReader(path, {name: _undecoded(tables[name], images) for name in names.values()}, images)
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


def _splits(tables: dict[str, Any], **given: str | None) -> dict[str, str]:
    """The name of each part that is given or found; no table is two parts."""
    names: dict[str, str] = {}
    for part, name in given.items():
        if name is None:
            continue
        option = f"{part}_split={name!r}"
        if name not in tables:
            near = did_you_mean(name, tables)
            raise ConfigError(f"{option} is not in the data set.{near} It has: {', '.join(tables)}.")
        if name in names.values():
            raise ConfigError(f"{option} is not allowed: that is another part already.")
        names[part] = name
    for part, usual in USUAL_SPLITS.items():
        free = [name for name in usual if name in tables and name not in names.values()]
        if part not in names and free:
            names[part] = free[0]
    return names


def _undecoded(table: Any, column: str) -> Any:
    import datasets

    return table.cast_column(column, datasets.Image(decode=False)).select_columns([column])
