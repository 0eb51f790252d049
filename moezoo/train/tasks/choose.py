"""Which task a model and a data set make."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.data import CaptionedSplits, Splits
from moezoo.errors import ConfigError
from moezoo.train.config import TrainingConfig
from moezoo.train.tasks.base import Task
from moezoo.train.tasks.caption import Captioning
from moezoo.train.tasks.classify import Classification
from moezoo.train.tasks.described import DescribedClassification
from moezoo.train.tasks.retrieve import Retrieval

AnySplits = Splits | CaptionedSplits

TASKS: list[type[Task]] = [Captioning, Retrieval, DescribedClassification, Classification]
"""The first one that fits is taken."""


def choose_task(model: nn.Module, splits: Any, config: TrainingConfig) -> type[Task]:
    """The kind of training that ``model`` and ``splits`` make.

    Raises:
        ConfigError: None does, or ``config.text`` says something about text where there is none.
    """
    for task in TASKS:
        if task.fits(model, splits, config):
            break
    else:
        raise ConfigError(_unfit(model, splits))
    if config.text == "shuffled" and task is Classification:
        raise ConfigError(f"text='shuffled' has no effect: {type(model).__name__} takes no text. Leave it at 'own'.")
    return task


def task_of(model: nn.Module, splits: Any, config: TrainingConfig) -> Task:
    """The task itself; raises :class:`ConfigError` where model, data and settings do not go together."""
    return choose_task(model, splits, config)(model, splits, config)


def _unfit(model: nn.Module, splits: Any) -> str:
    kind, name = type(model).__name__, getattr(splits, "name", splits)
    if isinstance(splits, CaptionedSplits):
        return f"data set {name!r} has no class labels but captions, and {kind} takes no text."
    if isinstance(splits, Splits):
        return f"data set {name!r} has class labels and no captions, which {kind} writes."
    return f"data set {name!r} has no class labels ({type(splits).__name__}), which this needs."
