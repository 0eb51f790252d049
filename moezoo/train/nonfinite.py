"""What becomes of a step whose loss or gradient is NaN or infinite: it is never taken, and its images are named."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from moezoo.errors import NonFiniteError
from moezoo.train.batches import Batch, describe
from moezoo.train.config import TrainingConfig

logger = logging.getLogger(__name__)

SHOWN = 8
"""Images of a batch that a message names by their files."""
NUMBERED = 256
"""So many at most are named at all, the others by their numbers."""


class Refusals:
    """Ends the run at a refused step, or counts it and goes on, as ``config`` says."""

    def __init__(self, config: TrainingConfig, dataset: Any):
        self.config, self.dataset = config, dataset
        self.skipped = 0
        """Steps left out so far."""

    def see(self, place: str, trouble: str, batches: Sequence[Batch]) -> None:
        """Of a step that was not taken.

        Raises:
            NonFiniteError: The run is to stop, or has left out as many steps as it may.
        """
        what = f"{place}: {trouble}; the weights are those of the step before. The batch: {self._names(batches)}."
        limit = self.config.max_skipped_steps
        if self.config.on_nonfinite == "stop":
            raise NonFiniteError(
                f"{what} Try a lower lr (now {self.config.lr}), grad_clip, mixed_precision='no', or leave such steps "
                "out by on_nonfinite='skip'."
            )
        self.skipped += 1
        if self.skipped > limit:
            raise NonFiniteError(f"{what} This is step {self.skipped} to be left out, max_skipped_steps={limit}.")
        logger.warning("%s Left out, %d of at most %d.", what, self.skipped, limit)

    def _names(self, batches: Sequence[Batch]) -> str:
        indices = [index for batch in batches for index in batch.indices]
        named = [describe(self.dataset, index) for index in indices[:SHOWN]]
        named += [f"image {index}" for index in indices[SHOWN:NUMBERED]]
        more = len(indices) - len(named)
        return ", ".join(named) + (f" and {more} more" if more else "")
