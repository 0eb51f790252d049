"""Where the tokens went: the load of every expert, layer by layer, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.moe.record import RoutingRecord


@dataclass(frozen=True)
class LayerLoad:
    """The load of one MoE layer's experts. Shares are fractions of the assignments (token, expert) made."""

    layer: str
    tokens: int
    share: tuple[float, ...]
    """Per expert; sums to 1. Assignments dropped by a full expert are included."""
    load_entropy: float
    """Entropy of ``share`` over that of an even load: 1 is even, 0 is one expert for everything."""
    max_share: float
    min_share: float
    dead_experts: tuple[int, ...]
    """Experts that got not a single token."""
    drop_rate: float
    """Share of the assignments that found their expert full."""

    @property
    def num_experts(self) -> int:
        return len(self.share)


class LoadCounter:
    """Adds up routing over many batches: ``counter.add(records)`` after each, then ``counter.report()``."""

    def __init__(self) -> None:
        self._counts: dict[str, Tensor] = {}
        self._tokens: dict[str, int] = {}
        self._dropped: dict[str, int] = {}

    def add(self, records: Iterable[RoutingRecord]) -> None:
        """Count the assignments of ``records``; calls of the same layer are added together."""
        for record in records:
            routing, name = record.routing, record.name
            counts = routing.counts(dropped=True).to(torch.int64).cpu()
            self._counts[name] = self._counts.get(name, 0) + counts
            self._tokens[name] = self._tokens.get(name, 0) + routing.num_tokens
            self._dropped[name] = self._dropped.get(name, 0) + int(routing.num_dropped())

    def report(self) -> tuple[LayerLoad, ...]:
        """One :class:`LayerLoad` per layer, in the order they ran."""
        return tuple(
            _layer_load(name, self._tokens[name], counts.tolist(), self._dropped[name])
            for name, counts in self._counts.items()
        )


def routing_report(records: Iterable[RoutingRecord]) -> tuple[LayerLoad, ...]:
    """The load of every layer in the records of :func:`moezoo.record_routing`."""
    counter = LoadCounter()
    counter.add(records)
    return counter.report()


def _layer_load(name: str, tokens: int, counts: list[int], dropped: int) -> LayerLoad:
    total = sum(counts)
    share = tuple(count / total if total else 0.0 for count in counts)
    entropy = -sum(p * math.log(p) for p in share if p)
    return LayerLoad(
        layer=name,
        tokens=tokens,
        share=share,
        # A single expert cannot be loaded unevenly.
        load_entropy=entropy / math.log(len(share)) if len(share) > 1 else 1.0,
        max_share=max(share),
        min_share=min(share),
        dead_experts=tuple(i for i, count in enumerate(counts) if count == 0),
        drop_rate=dropped / total if total else 0.0,
    )
