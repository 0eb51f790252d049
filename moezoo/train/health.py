"""Noticing an expert collapse while a run goes on."""

from __future__ import annotations

import warnings

from moezoo.errors import MoeZooWarning
from moezoo.train.result import EpochMetrics

COLLAPSED = 0.5
"""A normalised load entropy below this: half of the experts, or fewer, do nearly everything."""


class CollapseWatch:
    """Warns once per layer when the same layer's experts are unevenly used in two epochs running."""

    def __init__(self) -> None:
        self._last: set[str] = set()
        self._warned: set[str] = set()

    def see(self, metrics: EpochMetrics) -> None:
        """Look at an epoch's routing."""
        bad = {load.layer: load for load in metrics.routing if load.load_entropy < COLLAPSED}
        for layer in bad.keys() & self._last - self._warned:
            load = bad[layer]
            dead = f"{len(load.dead_experts)} of {load.num_experts}"
            warnings.warn(
                f"expert collapse in {layer!r} at epoch {metrics.epoch}: the busiest expert gets "
                f"{load.max_share:.0%} of the tokens, {dead} get none. Raise load_balance_weight, or add "
                "router_noise.",
                MoeZooWarning,
                stacklevel=3,
            )
            self._warned.add(layer)
        self._last = set(bad)
