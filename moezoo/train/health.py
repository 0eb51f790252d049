"""Where the tokens of the training itself go, step by step, and noticing an expert collapse."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import MoeZooWarning
from moezoo.eval.compute import ComputeUse, compute_use
from moezoo.eval.routing import LayerLoad, layer_load
from moezoo.measure.image_cost import ImageCost, split_layers
from moezoo.moe.layer import MoELayer
from moezoo.moe.routers.score_threshold import ScoreThresholdRouter
from moezoo.moe.tracing import recomputing
from moezoo.moe.types import Routing
from moezoo.train.result import EpochMetrics

COLLAPSED = 0.5
"""The load is as uneven as if fewer than this share of the experts beyond the first did everything, evenly."""
STUCK = 0.005
"""A share of the tokens below this is as good as none."""


class RoutingMeter:
    """Counts every layer's assignments on the device while it is open, by a hook on each router.

    Nothing is read back: :meth:`counts` is a tensor, which sums over processes and is read with whatever else a step
    reads. Recomputations by activation checkpointing count nothing.

    Args:
        model: Its routers are watched.
        device: Where it lies.
        cost: What its images cost, of a model with big and small experts.
    """

    def __init__(self, model: nn.Module, device: torch.device, cost: ImageCost | None = None):
        self.device, self.cost = device, cost
        self.layers = {name: m for name, m in model.named_modules() if isinstance(m, MoELayer)}
        self.open = False
        self._counts: dict[str, Tensor] = {}
        self._handles = [
            layer.router.register_forward_hook(lambda _module, _args, routing, name=name: self._see(name, routing))
            for name, layer in self.layers.items()
        ]

    def start(self) -> None:
        """Count anew from here on."""
        self._counts, self.open = {}, True

    @contextmanager
    def counting_if(self, real: bool) -> Iterator[None]:
        """Count nothing inside unless ``real``: for a batch without images blank ones may stand in."""
        before, self.open = self.open, self.open and real
        try:
            yield
        finally:
            self.open = before

    @torch.no_grad()
    def _see(self, name: str, routing: Routing) -> None:
        if not self.open or recomputing():
            return
        counts = routing.counts(dropped=True).to(torch.int64)
        seen = torch.cat([counts, routing.num_dropped().view(1), torch.full_like(counts[:1], routing.num_tokens)])
        self._counts[name] = self._counts[name] + seen if name in self._counts else seen

    def counts(self) -> Tensor:
        """(sum of E + 2 over the layers,) int64: what :meth:`loads` understands. Closes the count."""
        self.open = False
        parts = [
            self._counts.get(name, torch.zeros(layer.num_experts + 2, dtype=torch.int64, device=self.device))
            for name, layer in self.layers.items()
        ]
        return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.int64, device=self.device)

    def loads(self, counts: Sequence[float]) -> tuple[LayerLoad, ...]:
        """The load of every layer that ran, from the values of :meth:`counts`."""
        loads, begin = [], 0
        for name, layer in self.layers.items():
            end = begin + layer.num_experts
            if tokens := int(counts[end + 1]):
                loads.append(layer_load(name, tokens, counts[begin:end], counts[end]))
            begin = end + 2
        return tuple(loads)

    def use(self, loads: Sequence[LayerLoad]) -> ComputeUse | None:
        """What the images behind ``loads`` used, if the model's can use more or less."""
        return compute_use(self.cost, loads) if self.cost is not None else None

    def close(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()


def load_row(load: LayerLoad) -> dict[str, Any]:
    """What ``steps.jsonl`` says of a layer."""
    return {
        "layer": load.layer,
        "load_entropy": load.load_entropy,
        "max_share": load.max_share,
        "min_share": load.min_share,
        "dead_experts": list(load.dead_experts),
        "drop_rate": load.drop_rate,
        "max_violation": load.max_violation,
    }


class CollapseWatch:
    """Warns once per layer when the same layer's experts are unevenly used in two epochs running.

    Of a big and a small expert an uneven load is the purpose: such a layer is warned about when one of them gets
    nothing, though the router is free to choose.

    Args:
        model: Whose layers they are; ``None`` takes all for layers with experts of one kind.
    """

    def __init__(self, model: nn.Module | None = None) -> None:
        self.split = split_layers(model) if model is not None else {}
        self._last: set[str] = set()
        self._warned: set[str] = set()

    def see(self, metrics: EpochMetrics, progress: float = 1.0) -> None:
        """Look at an epoch's routing.

        Args:
            metrics: Of the epoch.
            progress: How far training is, for layers whose budget is still coming down.
        """
        bad = {load.layer: load for load in metrics.routing if self._is_bad(load, progress)}
        for layer in bad.keys() & self._last - self._warned:
            tell = _tell_stuck if layer in self.split else _tell_collapse
            warnings.warn(tell(bad[layer], metrics.epoch), MoeZooWarning, stacklevel=3)
            self._warned.add(layer)
        self._last = set(bad)

    def _is_bad(self, load: LayerLoad, progress: float) -> bool:
        layer = self.split.get(load.layer)
        return collapsed(load) if layer is None else _stuck(load, layer, progress)


def _tell_collapse(load: LayerLoad, epoch: int) -> str:
    dead = f"{len(load.dead_experts)} of {load.num_experts}"
    return (
        f"expert collapse in {load.layer!r} at epoch {epoch}: the busiest expert gets "
        f"{load.max_share:.0%} of the tokens, {dead} get none. Raise the weight of the balance loss "
        "(load_balance_weight, aux_weights) or add noise to the router (router_noise, noisy_topk)."
    )


def _tell_stuck(load: LayerLoad, epoch: int) -> str:
    many, other = ("no", "small") if load.share[0] < 0.5 else ("every", "big")
    return (
        f"the routing ratio of {load.layer!r} sits at {load.share[0]:.0%} at epoch {epoch}: {many} token goes to the "
        f"big expert, so that nothing is chosen and only the {other} one learns. Give the share a target "
        "(budget_target, budget_weight), begin with a threshold among the scores (threshold_init), or widen the slope "
        "that choices learn by (temperature)."
    )


def _stuck(load: LayerLoad, layer: MoELayer, progress: float) -> bool:
    """Whether one of two unequal experts gets nothing, and neither a dial nor a schedule asks for that."""
    router = layer.router
    if not isinstance(router, ScoreThresholdRouter) or router.mode == "top_fraction":
        return False
    if router.budget is not None or router.threshold_override is not None:
        return False
    price = layer.aux.args.get("compute_budget", {})
    if progress < price.get("anneal", 0.0) or price.get("target") in (0.0, 1.0):
        return False
    return not STUCK < load.share[0] < 1 - STUCK


def collapsed(load: LayerLoad) -> bool:
    """Whether a layer's load is far from even."""
    # The exponential of an entropy is how many evenly used experts would have it, from 1 to E.
    return load.num_experts**load.load_entropy - 1 < COLLAPSED * (load.num_experts - 1)
