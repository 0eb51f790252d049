"""What a training run returns, as plain data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moezoo.eval import Evaluation, LayerLoad

USES = ("routing_ratio", "flops_per_image", "val_routing_ratio", "val_flops_per_image")
"""The fields of :class:`EpochMetrics` that only models with big and small experts have."""


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch. Losses are means over images."""

    epoch: int
    """Counted from 1."""
    lr: float
    """Of the last step; the highest of the parameter groups."""
    loss: float
    """Training loss of the task, label smoothing included, auxiliary loss not."""
    aux_loss: float
    """Auxiliary loss of the MoE layers, as it was added to ``loss``; 0 where it is attached to their outputs."""
    grad_norm: float
    """Mean over the steps, weighted by their images, before clipping."""
    val_loss: float
    """NaN where the model had no finite answer to any image, and of re-identification, which has no such loss."""
    score: float
    """What the epoch is chosen by, on the validation images; without any, of the test."""
    seconds: float
    routing: tuple[LayerLoad, ...]
    """Load of the experts over the validation images."""
    score_name: str = "accuracy"
    """What ``score`` is; larger is better."""
    routing_ratio: float | None = None
    """Share of the training tokens that went to a big expert, where a layer has a big and a small one."""
    flops_per_image: float | None = None
    """Forward FLOPs (2 x multiply-adds) that a training image took on average, under its routing."""
    val_routing_ratio: float | None = None
    val_flops_per_image: float | None = None
    judged_on: str = "val"
    """``"test"`` where the data set has no validation part: then the score chooses nothing, and is not to."""

    @property
    def val_accuracy(self) -> float:
        """``score``, where it is the accuracy."""
        if self.score_name != "accuracy":
            raise AttributeError(f"val_accuracy: the epochs of this run were judged by {self.score_name}; see score")
        return self.score

    @property
    def key(self) -> tuple[float, float]:
        """Larger is better. Validation sets are small and scores tie; the loss then decides."""
        return self.score, -self.val_loss if math.isfinite(self.val_loss) else -math.inf

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data; one line of ``metrics.jsonl``. A loss that is not finite is ``None``.

        The score stands under its own name, ``val_accuracy`` for example. What is only of models with big and small
        experts is left out for others.
        """
        score = f"{self.judged_on}_{self.score_name}"
        values = {score if k == "score" else k: v for k, v in dataclasses.asdict(self).items()}
        del values["score_name"], values["judged_on"]
        values = {k: v for k, v in values.items() if not (k in USES and v is None)}
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> EpochMetrics:
        """From what :meth:`to_dict` gave, through JSON too."""
        loads: list[dict[str, Any]] = [
            {k: tuple(v) if isinstance(v, list) else v for k, v in load.items()} for load in values["routing"]
        ]
        numbers: dict[str, Any] = {k: math.nan if v is None else v for k, v in values.items() if k != "routing"}
        name = next(k for k in numbers if k.startswith(("val_", "test_")) and k not in ("val_loss", *USES))
        score, (judged_on, _, score_name) = numbers.pop(name), name.partition("_")
        found = tuple(LayerLoad(**load) for load in loads)
        return EpochMetrics(**numbers, score=score, routing=found, score_name=score_name, judged_on=judged_on)


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. The model holds the weights of ``best_epoch``."""

    history: tuple[EpochMetrics, ...]
    best_epoch: int
    """The epoch of the highest validation score; among equals, of the lowest validation loss. The last one where there
    are no validation images."""
    test: Evaluation
    """Measured once, on the weights of ``best_epoch``."""
    seconds: float
    """Wall time of training and validation, what came before a resume included."""
    last: Evaluation | None = None
    """The test of the last epoch's weights, in re-identification, where it is usually the one published."""

    @property
    def best(self) -> EpochMetrics:
        return self.history[self.best_epoch - 1]

    @property
    def best_on_test(self) -> EpochMetrics | None:
        """The epoch of the highest test score, of a run without validation images: chosen on the test part, and so
        better than what the model would do on other images. ``None`` of a run with validation images."""
        judged = [epoch for epoch in self.history if epoch.judged_on == "test"]
        return max(judged, key=lambda epoch: epoch.key, default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data, the content of ``metrics.json``."""
        score = f"{self.best.judged_on}_{self.best.score_name}"
        data = {
            "best_epoch": self.best_epoch,
            score: self.best.score,
            "test": self.test.to_dict(),
            "seconds": self.seconds,
            "history": [epoch.to_dict() for epoch in self.history],
        }
        if self.last is not None:
            data["last"] = {"epoch": len(self.history), "test": self.last.to_dict()}
        if (chosen := self.best_on_test) is not None:
            data["best_on_test"] = {"epoch": chosen.epoch, score: chosen.score, "chosen_on": "test"}
        return data
