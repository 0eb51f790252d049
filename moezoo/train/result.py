"""What a training run returns, as plain data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from moezoo.eval import Evaluation, LayerLoad


@dataclass(frozen=True)
class EpochMetrics:
    """One epoch. Losses are means over images, accuracies fractions."""

    epoch: int
    """Counted from 1."""
    lr: float
    """Of the last step."""
    loss: float
    """Training loss of the task, label smoothing included, auxiliary loss not."""
    aux_loss: float
    """Auxiliary loss of the MoE layers, as it was added to ``loss``."""
    grad_norm: float
    """Mean over steps, before clipping."""
    val_loss: float
    val_accuracy: float
    seconds: float
    routing: tuple[LayerLoad, ...]
    """Load of the experts over the validation images."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data; one line of ``metrics.jsonl``."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class TrainingResult:
    """A finished run. The model holds the weights of ``best_epoch``."""

    history: tuple[EpochMetrics, ...]
    best_epoch: int
    """The epoch of the highest validation accuracy; among equals, of the lowest validation loss."""
    test: Evaluation
    """Measured once, on the weights of ``best_epoch``."""
    seconds: float
    """Wall time of training and validation."""

    @property
    def best(self) -> EpochMetrics:
        return self.history[self.best_epoch - 1]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data, the content of ``metrics.json``."""
        return {
            "best_epoch": self.best_epoch,
            "val_accuracy": self.best.val_accuracy,
            "test": self.test.to_dict(),
            "seconds": self.seconds,
            "history": [epoch.to_dict() for epoch in self.history],
        }
