"""Where the tokens went: the load of every expert, layer by layer, as plain data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.moe.record import RoutingRecord
from moezoo.moe.types import Routing


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

    @property
    def max_violation(self) -> float:
        """How much the busiest expert gets above the mean, over the mean: 0 is even, E - 1 is one for everything."""
        return self.max_share * self.num_experts - 1


def short_name(layer: str) -> str:
    """``blocks.3.entity_moe.moe`` as ``blocks.3``: what was put in there says nothing more by its own path."""
    for inside in (".entity_moe", ".token_routing"):
        layer = layer.partition(inside)[0] or layer
    return layer


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
            layer_load(name, self._tokens[name], counts.tolist(), self._dropped[name])
            for name, counts in self._counts.items()
        )


def routing_report(records: Iterable[RoutingRecord]) -> tuple[LayerLoad, ...]:
    """The load of every layer in the records of :func:`moezoo.record_routing`."""
    counter = LoadCounter()
    counter.add(records)
    return counter.report()


def first_expert(routing: Routing) -> Tensor:
    """(T,) int64 on the CPU: the expert of a token's largest weight; -1 where all its assignments were dropped."""
    weight = torch.full((routing.num_tokens, routing.num_experts), -1.0)
    kept = ~routing.dropped.cpu()
    token, expert = routing.token_index.cpu()[kept], routing.expert_index.cpu()[kept]
    weight[token, expert] = routing.weight.detach().float().cpu()[kept]
    strongest, chosen = weight.max(-1)
    return torch.where(strongest < 0, -1, chosen)


def image_shares(routing: Routing, images: int) -> Tensor | None:
    """(images, E) float64: of each image's assignments the share that went to each expert, dropped ones included.

    ``None`` where the tokens cannot be told apart by image. An image without an assignment has zeros.
    """
    if images == 0 or routing.num_tokens % images:
        return None
    asked = torch.ones_like(routing.dropped) if routing.chosen is None else routing.chosen
    image = routing.token_index[asked] // (routing.num_tokens // images)
    place = image * routing.num_experts + routing.expert_index[asked]
    counts = torch.bincount(place, minlength=images * routing.num_experts).view(images, -1).double().cpu()
    return counts / counts.sum(-1, keepdim=True).clamp(min=1)


def layer_load(name: str, tokens: int, counts: Sequence[float], dropped: float) -> LayerLoad:
    """A :class:`LayerLoad` from what was counted.

    Args:
        name: The layer's path.
        tokens: It got.
        counts: Assignments of each expert, dropped ones included.
        dropped: Assignments that found their expert full.
    """
    total = sum(counts)
    share = tuple(count / total if total else 0.0 for count in counts)
    entropy = sum(-p * math.log(p) for p in share if p)
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
