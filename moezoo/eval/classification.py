"""Metrics of a classifier from its logits, as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import InputError
from moezoo.eval.answers import answered, check_answers
from moezoo.eval.calibration import ReliabilityBin, calibration_error, reliability_bins


@dataclass(frozen=True)
class LabelReport:
    """One class. Values are fractions; 0 where nothing was predicted or nothing is there."""

    label: str
    precision: float
    recall: float
    f1: float
    support: int
    """Images of this class."""


@dataclass(frozen=True)
class Classification:
    """Metrics over N images. Accuracies are fractions.

    An image whose answer holds NaN counts as wrong in the accuracies and recalls; the other figures, and the columns of
    ``confusion``, are about the images with an answer.
    """

    samples: int
    loss: float
    """Mean cross-entropy in nats, without label smoothing; NaN where no image has an answer."""
    top1: float
    top5: float | None
    """``None`` with five classes or fewer, where it says nothing."""
    calibration_error: float
    """Expected calibration error of the largest probability, 15 equal bins; NaN where no image has an answer."""
    labels: tuple[LabelReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Row: true class, column: predicted class."""
    reliability: tuple[ReliabilityBin, ...] = ()
    """The bins of ``calibration_error`` that hold an image."""
    nonfinite: int = 0
    """Images whose logits hold NaN or infinity, so that they have no probabilities."""


def classification_metrics(logits: Tensor, labels: Tensor, label_names: Sequence[str] | None = None) -> Classification:
    """Compute every metric of :class:`Classification`.

    Args:
        logits: (N, C).
        labels: (N,) true classes, 0 to C - 1.
        label_names: C names; by default the class numbers.

    Raises:
        InputError: Shapes do not fit, or a label is outside 0 to C - 1.
    """
    from sklearn import metrics

    check_answers(logits, labels)
    classes = list(range(logits.shape[1]))
    names = [str(name) for name in (classes if label_names is None else label_names)]
    if len(names) != len(classes):
        raise InputError(f"label_names must have {len(classes)} names, one per class, got {len(names)}")

    logits, labels = logits.detach().float().cpu(), labels.cpu()
    finite = answered(logits)
    some, there = bool(finite.any()), int(finite.sum())
    # No class is -1: an image without an answer is never right.
    true, predicted = labels.numpy(), torch.where(finite, logits.argmax(-1), -1).numpy()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=classes, zero_division=0
    )
    top5 = None
    if len(classes) > 5:
        scores = logits[finite].clamp(min=torch.finfo(torch.float32).min)  # scikit-learn takes no -inf
        right = there and metrics.top_k_accuracy_score(
            true[finite], scores.numpy(), k=5, labels=classes, normalize=False
        )
        top5 = float(right) / len(true)
    probs = logits[finite].softmax(-1)
    return Classification(
        samples=len(true),
        loss=float(F.cross_entropy(logits[finite], labels[finite])) if some else math.nan,
        top1=float(metrics.accuracy_score(true, predicted)),
        top5=top5,
        calibration_error=calibration_error(probs, labels[finite]) if some else math.nan,
        labels=tuple(
            LabelReport(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(names)
        ),
        confusion=_confusion(labels[finite], logits[finite].argmax(-1), len(classes)),
        reliability=reliability_bins(probs, labels[finite]),
        nonfinite=len(true) - there,
    )


def _confusion(true: Tensor, predicted: Tensor, classes: int) -> tuple[tuple[int, ...], ...]:
    counts = torch.bincount(true.long() * classes + predicted, minlength=classes * classes)
    return tuple(map(tuple, counts.view(classes, classes).tolist()))
