"""Where the tokens of the training itself go, step by step, and noticing an expert collapse."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import MoeZooWarning
from moezoo.eval.routing import LayerLoad, layer_load
from moezoo.moe.layer import MoELayer
from moezoo.moe.types import Routing, recomputing
from moezoo.train.result import EpochMetrics

COLLAPSED = 0.5
"""The load is as uneven as if fewer than this share of the experts beyond the first did everything, evenly."""


class RoutingMeter:
    """Counts every layer's assignments on the device while it is open, by a hook on each router.

    Nothing is read back: :meth:`counts` is a tensor, which sums over processes and is read with whatever else a step
    reads. Recomputations by activation checkpointing count nothing.
    """

    def __init__(self, model: nn.Module, device: torch.device):
        self.device = device
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
    """Warns once per layer when the same layer's experts are unevenly used in two epochs running."""

    def __init__(self) -> None:
        self._last: set[str] = set()
        self._warned: set[str] = set()

    def see(self, metrics: EpochMetrics) -> None:
        """Look at an epoch's routing."""
        bad = {load.layer: load for load in metrics.routing if collapsed(load)}
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


def collapsed(load: LayerLoad) -> bool:
    """Whether a layer's load is far from even."""
    # The exponential of an entropy is how many evenly used experts would have it, from 1 to E.
    return load.num_experts**load.load_entropy - 1 < COLLAPSED * (load.num_experts - 1)
