"""A classifier over many test images: which experts the classes go to, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn
from torch.utils.data import DataLoader, Subset

from moezoo.data import Splits
from moezoo.eval.answers import logits_of
from moezoo.moe.modes import evaluating
from moezoo.moe.record import record_routing
from moezoo.viz.expert_classes import ClassShares

SAMPLE, BATCH = 512, 64
"""Images that are looked at, and images per forward."""


@dataclass(frozen=True)
class Survey:
    """What was found."""

    shares: dict[str, np.ndarray]
    """Layer to (classes, E): the share of a class's tokens that every expert gets."""
    mistakes: list[int]
    """Test images that were taken for another class, the surest mistake first."""


def survey(model: nn.Module, splits: Splits, layers: Sequence[str]) -> Survey:
    """Show ``model`` test images, evenly spread over all of them, as they may stand in the order of their classes."""
    count = len(splits.test)  # type: ignore[arg-type]
    indices = range(0, count, max(count // SAMPLE, 1))
    counter = ClassShares(splits.num_classes)
    sure: list[tuple[float, int]] = []
    shown = iter(indices)
    with evaluating(model):
        for images, labels in DataLoader(Subset(splits.test, indices), batch_size=BATCH):
            with record_routing(model) as records:
                best = logits_of(model, images).softmax(-1).max(-1)
            counter.add([record for record in records if record.name in layers], labels)
            for label, guess, share in zip(labels.tolist(), best.indices.tolist(), best.values.tolist(), strict=True):
                index = next(shown)
                if guess != label:
                    sure.append((-share, index))
    return Survey(counter.report(), [index for _, index in sorted(sure)])
