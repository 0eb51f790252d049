"""Which task a model and a data set make."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.data import CaptionedSplits, ReidSplits, Splits
from moezoo.errors import ConfigError
from moezoo.eval.reading import finds_identities
from moezoo.train.config import REID_FIELDS, TrainingConfig, changed_fields
from moezoo.train.tasks.base import Task
from moezoo.train.tasks.caption import Captioning
from moezoo.train.tasks.classify import Classification
from moezoo.train.tasks.described import DescribedClassification
from moezoo.train.tasks.reid import ReIdentification
from moezoo.train.tasks.retrieve import Retrieval

AnySplits = Splits | CaptionedSplits | ReidSplits

TASKS: list[type[Task]] = [ReIdentification, Captioning, Retrieval, DescribedClassification, Classification]
"""The first one that fits is taken."""


def choose_task(model: nn.Module, splits: Any, config: TrainingConfig) -> type[Task]:
    """The kind of training that ``model`` and ``splits`` make.

    Raises:
        ConfigError: None does, or ``config`` says something about text, or about batches of identities, where there
            are none.
    """
    for task in TASKS:
        if task.fits(model, splits, config):
            break
    else:
        raise ConfigError(_unfit(model, splits))
    if config.text == "shuffled" and task is Classification:
        raise ConfigError(f"text='shuffled' has no effect: {type(model).__name__} takes no text. Leave it at 'own'.")
    if task is not ReIdentification and (idle := changed_fields(config, REID_FIELDS)):
        raise ConfigError(
            f"{idle} of training has no effect: {task.name} knows no identities. Leave it at its default."
        )
    return task


def task_of(model: nn.Module, splits: Any, config: TrainingConfig) -> Task:
    """The task itself; raises :class:`ConfigError` where model, data and settings do not go together."""
    return choose_task(model, splits, config)(model, splits, config)


def _unfit(model: nn.Module, splits: Any) -> str:
    kind, name = type(model).__name__, getattr(splits, "name", splits)
    if isinstance(splits, ReidSplits):
        return (
            f"data set {name!r} has identities to be found again, and {kind} gives no features to find them by: it "
            "takes no modalities, as the models of multiscale_moe do."
        )
    if finds_identities(model):
        return (
            f"data set {name!r} has no identities seen by several cameras ({type(splits).__name__}), which {kind} is "
            "trained to find again. Such sets: rgbnt201, market1501, trispectral and others of moezoo data list."
        )
    if isinstance(splits, CaptionedSplits):
        return f"data set {name!r} has no class labels but captions, and {kind} takes no text."
    if isinstance(splits, Splits):
        return f"data set {name!r} has class labels and no captions, which {kind} writes."
    return f"data set {name!r} has no class labels ({type(splits).__name__}), which this needs."
