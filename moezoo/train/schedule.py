"""What changes over a run as a function of the step alone, so that a resumed run needs no state of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer

from moezoo.train.config import TrainingConfig


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from zero, then a cosine to ``floor``; factors of each group's peak rate."""

    warmup: int
    """Steps."""
    total: int
    """Steps."""
    floor: float

    def factor(self, step: int) -> float:
        """For ``step``, counted from 1."""
        if step <= self.warmup:
            return step / self.warmup
        progress = (step - 1 - self.warmup) / max(self.total - 1 - self.warmup, 1)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))

    def progress(self, step: int) -> float:
        """How far the run is when ``step``, counted from 1, is taken: 0 for the first one, 1 for the last."""
        return min((step - 1) / max(self.total - 1, 1), 1.0)

    def apply(self, optimizer: Optimizer, step: int) -> float:
        """Set every group's rate for ``step``; returns the highest."""
        factor = self.factor(step)
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
        return max(group["lr"] for group in optimizer.param_groups)


def build_schedule(config: TrainingConfig, steps_per_epoch: int) -> Schedule:
    """The schedule of a whole run."""
    return Schedule(
        warmup=round(config.warmup_epochs * steps_per_epoch),
        total=config.epochs * steps_per_epoch,
        floor=config.min_lr / config.lr,
    )
