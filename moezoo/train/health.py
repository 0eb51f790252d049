"""Noticing an expert collapse while a run goes on."""

from __future__ import annotations

import warnings

from moezoo.errors import MoeZooWarning
from moezoo.eval.routing import LayerLoad
from moezoo.train.result import EpochMetrics

COLLAPSED = 0.5
"""The load is as uneven as if fewer than this share of the experts beyond the first did everything, evenly."""


class CollapseWatch:
    """Warns once per layer when the same layer's experts are unevenly used in two epochs running."""

    def __init__(self) -> None:
        self._last: set[str] = set()
        self._warned: set[str] = set()

    def see(self, metrics: EpochMetrics) -> None:
        """Look at an epoch's routing."""
        bad = {load.layer: load for load in metrics.routing if _collapsed(load)}
        for layer in bad.keys() & self._last - self._warned:
            load = bad[layer]
            dead = f"{len(load.dead_experts)} of {load.num_experts}"
            warnings.warn(
                f"expert collapse in {layer!r} at epoch {metrics.epoch}: the busiest expert gets "
                f"{load.max_share:.0%} of the tokens, {dead} get none. Raise the weight of the balance loss "
                "(load_balance_weight, aux_weights) or add noise to the router (router_noise, noisy_topk).",
                MoeZooWarning,
                stacklevel=3,
            )
            self._warned.add(layer)
        self._last = set(bad)


def _collapsed(load: LayerLoad) -> bool:
    # The exponential of an entropy is how many evenly used experts would have it, from 1 to E.
    return load.num_experts**load.load_entropy - 1 < COLLAPSED * (load.num_experts - 1)
