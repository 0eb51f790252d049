"""Scores of many variants of a few images, in batches."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from moezoo.eval.explanation.decision import Decision
from moezoo.eval.explanation.erasing import erase

Progress = Callable[[str, int, int], None]
"""Told after every batch: what is being done, how much of it is done, and of how much."""


class Scorer:
    """The decision's score of images with some cells erased.

    Args:
        decision: What is scored.
        images: (B, M, C, H, W).
        filled: Like ``images``: what stands in erased cells.
        flat: The model takes (B, C, H, W): M is 1 and is left away.
        batch_size: Variants per forward.
        progress: See :data:`Progress`.
    """

    def __init__(
        self,
        decision: Decision,
        images: Tensor,
        filled: Tensor,
        *,
        flat: bool,
        batch_size: int,
        progress: Progress | None = None,
    ):
        self.decision, self.images, self.filled = decision, images, filled
        self.flat, self.batch_size, self.progress = flat, batch_size, progress

    def __call__(self, what: str, rows: Tensor, erased: Tensor) -> Tensor:
        """(n,) float64 scores on the CPU.

        Args:
            what: Is being done, for the progress.
            rows: (n,) int64, of which image each variant is.
            erased: (n, M, rows, columns) bool.
        """
        found = []
        for start in range(0, len(rows), self.batch_size):
            some = rows[start : start + self.batch_size]
            variants = erase(self.images[some], erased[start : start + self.batch_size], self.filled[some])
            found.append(self.decision.score(self.as_taken(variants), some).cpu().double())
            if self.progress is not None:
                self.progress(what, start + len(some), len(rows))
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def as_taken(self, images: Tensor) -> Tensor:
        """(n, M, C, H, W) as the model takes it."""
        return images[:, 0] if self.flat else images
