"""The short training of one design, in a folder of its own: once it is finished it is only read."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from moezoo.data.reid.splits import ReidPart, ReidSplits
from moezoo.errors import ConfigError, OutputError, RunLockedError
from moezoo.hub.files import output_errors
from moezoo.measure.flops import flops
from moezoo.search.cost import one_image, parameters
from moezoo.search.spaces import Design, Space
from moezoo.train import fit
from moezoo.train.checkpoint import clear_checkpoints
from moezoo.train.output import write_json
from moezoo.train.progress import Observer
from moezoo.train.tasks import AnySplits

RESULT, WEIGHTS = "design.json", "weights.safetensors"
QUIET = ("training.log_every=1000000", "training.keep_checkpoints=1")
"""A short run needs no line per step."""
LOCK_PATIENCE = 30.0
"""Seconds to wait for a killed search's worker to let go of a folder."""


@dataclass(frozen=True)
class Trained:
    """What a short training found out. Nothing here has seen a test image."""

    values: dict[str, Any]
    score: float
    """On the validation images, in the best epoch; larger is better."""
    score_name: str
    epochs: int
    best_epoch: int
    flops: int
    """Executed for one image, under the routing of the trained model."""
    parameters: int
    seconds: float
    """Of training and validation."""

    @property
    def error(self) -> float:
        """What is missing to a perfect score."""
        return 1.0 - self.score

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def read_trained(folder: Path) -> Trained | None:
    """Of a design that is finished; ``None`` if it is not.

    Raises:
        OutputError: The file is damaged.
    """
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        return Trained(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OutputError(
            f"{str(path)!r} cannot be read: {error}. Remove it, and the design is trained again."
        ) from None


def train_design(
    space: Space, design: Design, folder: Path, assignments: Sequence[str], observer: Observer | None = None
) -> Trained:
    """Train ``design``, or go on from its newest checkpoint, or read what is finished.

    The test images are not looked at: where the training asks for a test it gets the validation images.

    Raises:
        ConfigError: The design or ``assignments`` are not allowed.
        Interrupted: A signal came; the step was finished and saved.
    """
    if (kept := read_trained(folder)) is not None:
        return kept
    model, splits, training = space.prepare(design.values, (*QUIET, *assignments))
    result = _fit(model, without_test(splits), training, folder, observer)
    model.to("cpu")
    best = result.best
    with output_errors(folder / WEIGHTS):
        save_file({k: v.contiguous().clone() for k, v in model.state_dict().items()}, folder / WEIGHTS)
    trained = Trained(
        dict(design.values),
        best.score,
        best.score_name,
        len(result.history),
        best.epoch,
        flops(model, _some_image(model, splits)).executed,
        parameters(model),
        result.seconds,
    )
    write_json(folder / RESULT, trained.to_dict())
    clear_checkpoints(folder / "checkpoints")
    return trained


def load_design(space: Space, design: Design, folder: Path, assignments: Sequence[str]) -> tuple[nn.Module, AnySplits]:
    """The trained model of a finished design, in evaluation mode, and its data."""
    model, splits, _ = space.prepare(design.values, assignments)
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.eval(), splits


def without_test(splits: Any) -> Any:
    """``splits`` with the validation images in the place of the test's.

    Raises:
        ConfigError: There are no validation images to choose by.
    """
    if getattr(splits, "val", None) is None:
        raise ConfigError(f"the data set {splits.name!r} has no validation part, which a search chooses by.")
    if any(field.name == "test" for field in dataclasses.fields(splits)):
        return dataclasses.replace(splits, test=splits.val)
    return _BlindReid(**{field.name: getattr(splits, field.name) for field in dataclasses.fields(splits)})


@dataclass(frozen=True)
class _BlindReid(ReidSplits):
    @property
    def test(self) -> ReidPart:
        assert self.val is not None
        return self.val


def _fit(model: nn.Module, splits: Any, training: Any, folder: Path, observer: Observer | None) -> Any:
    end = time.monotonic() + LOCK_PATIENCE
    while True:
        try:
            return fit(model, splits, training, out=folder, resume="auto", observer=observer)
        except RunLockedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _some_image(model: nn.Module, splits: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(splits.val[0][0])[None]
    except (TypeError, KeyError):
        return one_image(model)
