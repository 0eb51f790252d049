"""How a figure is spread over images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Spread:
    """Over the images of an evaluation."""

    mean: float
    sd: float
    """Standard deviation."""
    p5: float
    p50: float
    p95: float

    @staticmethod
    def of(values: Tensor) -> Spread:
        """Of (N,) numbers, N at least 1."""
        values = values.double()
        low, middle, high = torch.quantile(values, torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64)).tolist()
        return Spread(float(values.mean()), float(values.std(correction=0)), low, middle, high)
