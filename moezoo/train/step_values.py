"""What a step came to."""

from __future__ import annotations

from dataclasses import dataclass

from moezoo.eval.compute import ComputeUse
from moezoo.eval.routing import LayerLoad


@dataclass(frozen=True)
class StepValues:
    """A step's numbers, over all processes."""

    images: int
    loss: float
    """Of the task, mean over images."""
    aux_loss: float
    grad_norm: float
    """Before clipping; 0 where it was infinite under a gradient scaler."""
    stop: bool
    """A process was asked to stop."""
    updated: bool
    """The optimiser took the step."""
    routing: tuple[LayerLoad, ...] = ()
    """Of the step's own tokens, where it was to be measured."""
    use: ComputeUse | None = None
    """What its images used, where a layer has a big and a small expert."""
    trouble: str = ""
    """Why the step was refused."""
