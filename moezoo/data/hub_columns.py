"""Which columns of a Hugging Face data set hold images and labels, and what the labels are."""

from __future__ import annotations

from typing import Any

import numpy as np

from moezoo.errors import ConfigError, DataError
from moezoo.names import did_you_mean

LABEL_COLUMNS = ("label", "labels", "fine_label", "class", "category")
"""Looked for, in this order, if no single column is of the type for class labels."""


def find_columns(table: Any, image: str | None, label: str | None) -> tuple[str, str]:
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


def class_names(table: Any, column: str) -> tuple[tuple[str, ...], dict[Any, int] | None]:
    """The classes, and the number of each value where the column has values instead of numbers."""
    import datasets

    feature = table.features[column]
    if isinstance(feature, datasets.ClassLabel):
        return tuple(feature.names), None
    values = [value for value in table[column] if value is not None]
    if not values or not all(isinstance(value, str | int) for value in values):
        raise ConfigError(f"label_column={column!r} must hold class labels, ints or strings, not {feature}.")
    distinct = sorted(set(values))
    return tuple(map(str, distinct)), {value: i for i, value in enumerate(distinct)}


def class_numbers(
    table: Any, column: str, label_names: tuple[str, ...], numbers: dict[Any, int] | None, where: str
) -> np.ndarray:
    """The numbers of the classes, -1 where a row has none."""
    values = list(table[column])
    if numbers is None:
        names = tuple(getattr(table.features[column], "names", ()))
        if names != label_names:
            own, wanted = ", ".join(names) or "not named", ", ".join(label_names)
            raise DataError(f"{where}: its classes are {own}; those to train on are {wanted}")
    else:
        strange = next((value for value in values if value is not None and value not in numbers), None)
        if strange is not None:
            raise DataError(f"{where}: {strange!r} is a class that the training part does not have")
        values = [numbers.get(value) for value in values]
    return np.array([-1 if value is None else value for value in values], dtype=np.int64)
