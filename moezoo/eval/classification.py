"""Metrics of a classifier from its logits, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import InputError


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
    """Metrics over N images. Accuracies are fractions."""

    samples: int
    loss: float
    """Mean cross-entropy in nats, without label smoothing."""
    top1: float
    top5: float | None
    """``None`` with five classes or fewer, where it says nothing."""
    calibration_error: float
    """Expected calibration error of the largest probability, 15 equal bins."""
    labels: tuple[LabelReport, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Row: true class, column: predicted class."""


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

    if logits.dim() != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise InputError(
            f"logits must be (N, C) with N labels and N at least 1, got {tuple(logits.shape)} and {tuple(labels.shape)}"
        )
    classes = list(range(logits.shape[1]))
    if int(labels.min()) < 0 or int(labels.max()) >= len(classes):
        raise InputError(f"labels must be from 0 to {len(classes) - 1}, got {int(labels.min())} to {int(labels.max())}")
    names = [str(name) for name in (classes if label_names is None else label_names)]
    if len(names) != len(classes):
        raise InputError(f"label_names must have {len(classes)} names, one per class, got {len(names)}")

    logits, labels = logits.detach().float().cpu(), labels.cpu()
    true, predicted = labels.numpy(), logits.argmax(-1).numpy()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        true, predicted, labels=classes, zero_division=0
    )
    top5 = None
    if len(classes) > 5:
        top5 = float(metrics.top_k_accuracy_score(true, logits.numpy(), k=5, labels=classes))
    return Classification(
        samples=len(true),
        loss=float(F.cross_entropy(logits, labels)),
        top1=float(metrics.accuracy_score(true, predicted)),
        top5=top5,
        calibration_error=calibration_error(logits.softmax(-1), labels),
        labels=tuple(
            LabelReport(name, float(precision[i]), float(recall[i]), float(f1[i]), int(support[i]))
            for i, name in enumerate(names)
        ),
        confusion=tuple(map(tuple, metrics.confusion_matrix(true, predicted, labels=classes).tolist())),
    )


def calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error (Guo et al. 2017): mean over images of |confidence - accuracy| of their bin.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) true classes.
        bins: Equal bins of the largest probability; a bin includes its upper end.
    """
    confidence, predicted = probs.max(-1)
    right = (predicted == labels).to(confidence.dtype)
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = torch.zeros(bins, dtype=confidence.dtype).index_add(0, index, confidence - right)
    return float(gap.abs().sum() / len(labels))
