"""How far a run has come, and what it has seen: plain data that a checkpoint holds as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from moezoo.eval.compute import ComputeUse
from moezoo.train.result import EpochMetrics
from moezoo.train.step_values import StepValues
from moezoo.train.tasks.base import Judgement


@dataclass
class Standing:
    """Changes after every step and every epoch."""

    epoch: int = 1
    """The one under way."""
    position: int = 0
    """Images of this epoch that are done, over all processes."""
    step: int = 0
    """Optimiser steps of the whole run, those left out included."""
    images: int = 0
    """Images behind the sums below, which are of this epoch."""
    loss: float = 0.0
    aux_loss: float = 0.0
    grad_norm: float = 0.0
    routing_ratio: float = 0.0
    flops_per_image: float = 0.0
    routed: int = 0
    """Images behind ``routing_ratio``."""
    used: int = 0
    """Images behind ``flops_per_image``."""
    lr: float = 0.0
    """Of the last step."""
    skipped_steps: int = 0
    seconds: float = 0.0
    """Of this epoch so far."""
    history: list[EpochMetrics] = field(default_factory=list)

    @property
    def best(self) -> EpochMetrics | None:
        """The first of the best epochs so far."""
        return max(self.history, key=lambda metrics: metrics.key) if self.history else None

    @property
    def kept(self) -> EpochMetrics | None:
        """The epoch whose weights are kept: the best on the validation images; without any, the last."""
        return self.history[-1] if self.history and self.history[-1].judged_on == "test" else self.best

    @property
    def waited(self) -> int:
        """Epochs since the best one."""
        return len(self.history) - self.best.epoch if self.best is not None else 0

    def add(self, values: StepValues, position: int, lr: float, seconds: float) -> None:
        """One step more; its numbers count if the optimiser took it."""
        self.step, self.position, self.lr = self.step + 1, position, lr
        self.seconds += seconds
        if values.updated:
            self.images += values.images
            self.loss += values.images * values.loss
            self.aux_loss += values.images * values.aux_loss
            self.grad_norm += values.images * values.grad_norm
            if values.use is not None:
                self.used += values.images
                self.flops_per_image += values.images * values.use.flops_per_image
                if values.use.routing_ratio is not None:
                    self.routed += values.images
                    self.routing_ratio += values.images * values.use.routing_ratio

    def end_epoch(
        self,
        judgement: Judgement,
        score_name: str,
        seconds: float,
        routing: tuple,
        use: ComputeUse | None = None,
        judged_on: str = "val",
    ) -> EpochMetrics:
        """Close the epoch; its metrics, which are in the history now.

        Args:
            judgement: Of the validation images.
            score_name: What its score is.
            seconds: That the validation took.
            routing: The load of the experts over the validation images.
            use: What those images used.
            judged_on: The part they are of, ``"val"`` or ``"test"``.
        """
        n = max(self.images, 1)
        metrics = EpochMetrics(
            epoch=self.epoch,
            lr=self.lr,
            loss=self.loss / n,
            aux_loss=self.aux_loss / n,
            grad_norm=self.grad_norm / n,
            val_loss=judgement.loss,
            score=judgement.score,
            seconds=self.seconds + seconds,
            routing=routing,
            score_name=score_name,
            routing_ratio=self.routing_ratio / self.routed if self.routed else None,
            flops_per_image=self.flops_per_image / self.used if self.used else None,
            val_routing_ratio=use.routing_ratio if use is not None else None,
            val_flops_per_image=use.flops_per_image if use is not None else None,
            judged_on=judged_on,
        )
        self.history.append(metrics)
        self.epoch, self.position = self.epoch + 1, 0
        self.images, self.loss, self.aux_loss, self.grad_norm, self.seconds = 0, 0.0, 0.0, 0.0, 0.0
        self.used, self.routed, self.routing_ratio, self.flops_per_image = 0, 0, 0.0, 0.0
        return metrics

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        return {**dataclasses.asdict(self), "history": [metrics.to_dict() for metrics in self.history]}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Standing:
        """From what :meth:`to_dict` gave."""
        return Standing(**{**values, "history": [EpochMetrics.from_dict(each) for each in values["history"]]})
