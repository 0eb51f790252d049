"""Spaces whose models are plain modules, without a registered name: their data and training come from here."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from moezoo.config import decode, merge, parse_assignments
from moezoo.data import Splits, load_dataset
from moezoo.data.signature import option_names
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean
from moezoo.parts import datasets
from moezoo.search.spaces.base import Prepared, Space, Values
from moezoo.train import TrainingConfig, seeded

SECTIONS = ("data", "training")


class ModuleSpace(Space):
    """A space that builds its models itself."""

    image: tuple[int, int, int]
    """(C, H, W) that the models are meant for."""
    dataset: str | None
    """What they are trained on unless said otherwise."""
    training: Mapping[str, Any]
    """How, where it differs from the defaults."""

    @abstractmethod
    def build(self, values: Values, image: tuple[int, int, int], num_classes: int) -> nn.Module:
        """The model with fresh weights, with a ``pretrained_cfg``."""

    def on_meta(self, values: Values, assignments: Sequence[str] = ()) -> nn.Module:
        given = self._sections(assignments)
        with torch.device("meta"):
            return self.build(values, self._image(given["data"]), 10)

    def check(self, values: Values, assignments: Sequence[str] = ()) -> None:
        self._data(assignments)
        self._training(assignments)

    def prepare(self, values: Values, assignments: Sequence[str] = ()) -> Prepared:
        (name, image, options), training = self._data(assignments), self._training(assignments)
        splits = load_dataset(name, **options)
        if not isinstance(splits, Splits):
            raise ConfigError(f"{self.name} is of classifiers, and the data set {name!r} has no classes.")
        with seeded(training.seed):
            model = self.build(values, image, splits.num_classes)
        return Prepared(model, splits, training)

    def _data(self, assignments: Sequence[str]) -> tuple[str, tuple[int, int, int], dict[str, Any]]:
        """Name of the data set, (C, H, W) of its images, and its options."""
        options = dict(self._sections(assignments)["data"])
        name = options.pop("name", self.dataset)
        if name is None:
            raise ConfigError(f"nothing says what {self.name} is trained on: give a data set (--data cifar10).")
        image, takes = self._image(options), option_names(datasets.get(name))
        usual = {"input_size": image, "mean": (0.5,) * image[0], "std": (0.5,) * image[0]}
        return name, image, {**{key: value for key, value in usual.items() if key in takes}, **options}

    def _training(self, assignments: Sequence[str]) -> TrainingConfig:
        given = {**self.training, **self._sections(assignments)["training"]}
        return decode(TrainingConfig, _with_warmup(given), where="training")

    def _image(self, data: Mapping[str, Any]) -> tuple[int, int, int]:
        size = data.get("input_size", self.image)
        if not isinstance(size, (list, tuple)) or len(size) != 3 or not all(isinstance(n, int) and n > 0 for n in size):
            raise ConfigError(f"data.input_size={size!r} is not allowed: it must be [channels, height, width].")
        return tuple(size)

    def _sections(self, assignments: Sequence[str]) -> dict[str, dict[str, Any]]:
        given = parse_assignments(list(assignments))
        for section, content in given.items():
            if section not in SECTIONS or not isinstance(content, Mapping):
                raise ConfigError(
                    f"--set {section!r}: {self.name} takes training.KEY and data.KEY."
                    f"{did_you_mean(str(section), SECTIONS)}"
                )
        return merge({section: {} for section in SECTIONS}, given)


def _with_warmup(training: dict[str, Any]) -> dict[str, Any]:
    """A short run gets a warm-up of a quarter of it, unless one was asked for."""
    epochs = training.get("epochs", TrainingConfig.epochs)
    return {"warmup_epochs": min(2.0, epochs / 4), **training} if isinstance(epochs, int) else training
