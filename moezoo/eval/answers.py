"""A classifier's logits: how to get them, and which of them are an answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from moezoo.errors import ConfigError, InputError
from moezoo.hub.state import shown

logger = logging.getLogger(__name__)


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, classes) float32 logits on the CPU, of images brought to the model's device and floating-point type.

    The model sees the images alone. It may answer with a mapping that holds ``logits``.

    Raises:
        InputError: The model answers with something else.
    """
    return checked_logits(model, model(placed(model, images)), len(images))


def placed(model: nn.Module, images: Tensor) -> Tensor:
    """``images`` on the model's device, in its floating-point type."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), images)
    return images.to(weight.device, weight.dtype)


def checked_logits(model: nn.Module, output: Any, images: int) -> Tensor:
    """(images, classes) float32 logits on the CPU, of what ``model`` answered.

    Raises:
        InputError: There are none.
    """
    return logits_in(output, images, type(model).__name__).float().cpu()


def logits_in(output: Any, images: int, name: str) -> Tensor:
    """(images, classes) logits of what the model called ``name`` answered, as they are.

    Raises:
        InputError: There are none.
    """
    logits = output.get("logits") if isinstance(output, Mapping) else output
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != images:
        got: Any = tuple(logits.shape) if isinstance(logits, Tensor) else type(output).__name__
        if isinstance(output, Mapping):
            got = f"a mapping of {', '.join(map(str, output))}" if logits is None else f"logits {got}"
        raise InputError(f"{name} must answer {images} images with (images, classes) logits, got {got}")
    return logits


def check_answers(logits: Tensor, labels: Tensor) -> None:
    """Raise :class:`InputError` unless there are N >= 1 rows of logits and as many labels among their classes."""
    if logits.dim() != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise InputError(
            f"logits must be (N, C) with N labels and N at least 1, got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    if int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]:
        raise InputError(
            f"labels must be from 0 to {logits.shape[1] - 1}, got {int(labels.min())} to {int(labels.max())}"
        )


def check_same_classes(model: Sequence[str] | None, dataset: Sequence[str] | None, *, strict: bool = False) -> None:
    """Class i of a model is class i of the data set, which only their names can tell; warn where they differ.

    Args:
        model: The names the model was saved with.
        dataset: The data set's.
        strict: Other names are an error, not a warning.

    Raises:
        ConfigError: Both have the same names in another order, or other names under ``strict``.
    """
    ours, theirs = list(map(str, model or ())), list(map(str, dataset or ()))
    if not ours or not theirs or ours == theirs:
        return
    told = f"the model's classes are {shown(ours)}; the data set's are {shown(theirs)}"
    if sorted(ours) == sorted(theirs):
        raise ConfigError(f"{told}: the same in another order, so that every answer would be taken for another")
    if strict:
        raise ConfigError(f"{told}: the model was trained on another data set")
    logger.warning("%s: they are compared by their number", told)


def answered(logits: Tensor) -> Tensor:
    """(N,) bool: the rows of (N, C) logits that have probabilities. A class may be ruled out by -inf."""
    return logits.softmax(-1).isfinite().all(-1)
