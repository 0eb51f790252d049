"""What the models of an ablation cost: parameters, time per image, memory. Timed together, so that all of them meet the
same machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.eval.answers import placed
from moezoo.measure import latency, memory, parameters
from moezoo.measure.calling import device_of
from moezoo.train.tasks import AnySplits

IMAGES = 8
"""Test images of a forward."""
ROUNDS = 15


@dataclass(frozen=True)
class Efficiency:
    """Of one model, on the machine that measured it."""

    parameters: int
    active_parameters: int
    """What one token passes through."""
    ms_per_image: float
    """Inference, the median over interleaved rounds, in batches of :data:`IMAGES`."""
    time_vs_base: float
    """Median over the rounds of its time by the base's in the same round."""
    train_memory: int
    """Bytes of a training step with such a batch: weights, gradients, AdamW's two moments, and what the forward keeps
    for the backward pass."""
    eval_memory: int
    """The most bytes that are alive in an inference forward of such a batch."""


def efficiencies(models: Mapping[str, tuple[nn.Module, AnySplits]], base: str) -> dict[str, Efficiency]:
    """Measure ``models``, each on test images of its own; they are left as they were.

    Args:
        models: Name to a model in evaluation mode, and its data set.
        base: Which of them the others' time is divided by.
    """
    images = {name: placed(model, _images(splits)) for name, (model, splits) in models.items()}
    runs: dict[str, Callable[[], Any]] = {
        name: partial(_infer, model, images[name]) for name, (model, _) in models.items()
    }
    device = device_of(models[base][0])
    times = latency(runs, rounds=ROUNDS, baseline=base, device=device)
    found = {}
    for name, (model, _) in models.items():
        sizes, bytes_ = parameters(model), memory(model, images[name])
        learnt = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
        time = times[name]
        assert time.ratio is not None
        found[name] = Efficiency(
            parameters=sizes.total,
            active_parameters=sizes.active,
            ms_per_image=time.p50 / len(images[name]),
            time_vs_base=time.ratio,
            train_memory=bytes_.weights + 3 * learnt + bytes_.saved_for_backward,
            eval_memory=bytes_.peak,
        )
    return found


def _images(splits: AnySplits) -> Tensor:
    return torch.stack([splits.test[i][0] for i in range(min(len(splits.test), IMAGES))])  # type: ignore[arg-type]


@torch.no_grad()
def _infer(model: nn.Module, images: Tensor) -> Any:
    return model(images)
