"""How much of the compute a model's images really used, from the load of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moezoo.eval.routing import LayerLoad
from moezoo.measure.image_cost import ImageCost


@dataclass(frozen=True)
class ComputeUse:
    """What some images used on average."""

    routing_ratio: float | None
    """Share of the tokens that went to a big expert, over all layers that have one; ``None`` where none has."""
    flops_per_image: float
    """Forward FLOPs (2 x multiply-adds) under that routing."""


def compute_use(cost: ImageCost, loads: Sequence[LayerLoad]) -> ComputeUse | None:
    """Of the images that gave ``loads``; ``None`` where a layer of ``cost`` did not run.

    Args:
        cost: Of the model.
        loads: Of its layers; of those without a big and a small expert none is needed.
    """
    if not cost.layers:
        return ComputeUse(cost.constant_ratio, cost.fixed)
    found = {load.layer: load for load in loads if load.layer in cost.layers}
    if len(found) < len(cost.layers):
        return None
    tokens = sum(load.tokens for load in found.values())
    big = sum(load.share[0] * load.tokens for load in found.values())
    return ComputeUse(big / tokens, cost.of_shares({name: load.share for name, load in found.items()}))


def short_flops(flops: float) -> str:
    """``12.3 MFLOPs`` and the like."""
    return f"{short_number(flops)}FLOPs"


def short_number(value: float) -> str:
    """``12.3 M`` and the like, a unit to follow."""
    unit, size = unit_for(value)
    return f"{value / size:.3g} {unit}"


def unit_for(value: float) -> tuple[str, float]:
    """The prefix that ``value`` reads best with, ``M`` for example, and what it stands for."""
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * size:  # three digits of anything smaller would round to 1e+03
            return unit, size
    return "", 1.0
