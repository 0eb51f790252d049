"""Whether a model knows how sure it may be: confidence against accuracy, in bins."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 15
"""Equal bins of the largest probability."""


@dataclass(frozen=True)
class ReliabilityBin:
    """The images whose largest probability is in (``low``, ``high``]."""

    low: float
    high: float
    count: int
    confidence: float
    """Their mean largest probability."""
    accuracy: float
    """The fraction of them that is right."""


def reliability_bins(probs: Tensor, labels: Tensor, bins: int = BINS) -> tuple[ReliabilityBin, ...]:
    """The bins that hold an image, the least confident first.

    Args:
        probs: (N, C) probabilities.
        labels: (N,) true classes.
        bins: Equal bins of the largest probability; a bin includes its upper end.
    """
    if len(labels) == 0:
        return ()
    confidence, predicted = probs.double().max(-1)
    right = (predicted == labels).to(confidence.dtype)
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    sums = torch.zeros(bins, 3, dtype=confidence.dtype)
    sums.index_add_(0, index, torch.stack([torch.ones_like(right), confidence, right], -1))
    return tuple(
        ReliabilityBin(i / bins, (i + 1) / bins, round(count), sure / count, correct / count)
        for i, (count, sure, correct) in enumerate(sums.tolist())
        if count
    )


def calibration_error(probs: Tensor, labels: Tensor, bins: int = BINS) -> float:
    """Expected calibration error (Guo et al. 2017): mean over images of |confidence - accuracy| of their bin.

    Arguments as of :func:`reliability_bins`.
    """
    found = reliability_bins(probs, labels, bins)
    return sum(each.count * abs(each.confidence - each.accuracy) for each in found) / len(labels)
