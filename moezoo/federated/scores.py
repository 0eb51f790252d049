"""How good a round's models are: on everyone's images, and on images like a client's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import Dataset

from moezoo.eval import predict


@dataclass(frozen=True)
class Score:
    """Accuracies of one client's model."""

    everywhere: float
    """On all images of the part."""
    own: float
    """On images with the classes in the client's own shares: the accuracies of the classes, weighted by these."""


def class_accuracies(model: nn.Module, part: Dataset, classes: int, batch_size: int) -> tuple[float, list[float]]:
    """The accuracy on ``part``, and that of each class; NaN for a class that does not occur."""
    logits, labels, _ = predict(model, part, batch_size=batch_size)
    right = (logits.argmax(-1) == labels).double()
    seen = torch.bincount(labels, minlength=classes).double()
    return float(right.mean()), (torch.bincount(labels, right, minlength=classes) / seen).tolist()


def client_score(everywhere: float, by_class: Sequence[float], images: Sequence[int]) -> Score:
    """From :func:`class_accuracies` and the client's training images of each class."""
    known = [(a, n) for a, n in zip(by_class, images, strict=True) if a == a]
    total = sum(n for _, n in known)
    return Score(everywhere, sum(a * n for a, n in known) / total if total else float("nan"))
