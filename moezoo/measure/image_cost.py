"""What an image costs a model that sends tokens to a big or a small expert: counted once, from then on a sum."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from moezoo.measure.flops import flops_and_routings
from moezoo.moe.layer import MoELayer
from moezoo.moe.routers.split import SplitRouter

ROWS = 16
"""Over which an expert's FLOPs per row are counted; experts compute row by row."""


@dataclass(frozen=True)
class LayerCost:
    """One layer with a big and a small expert."""

    tokens: int
    """It gets of every image."""
    per_token: tuple[float, ...]
    """FLOPs of a token at each expert."""
    per_pair: tuple[float, ...] = (0.0, 0.0)
    """Besides, of every two tokens of an image at an expert that lets them attend to each other."""

    def spent(self, counts: Tensor) -> Tensor:
        """(...,) float64: FLOPs where the experts have ``counts`` (..., E) of an image's tokens."""
        counts = counts.double()
        each, pair = (torch.tensor(cost, dtype=torch.float64) for cost in (self.per_token, self.per_pair))
        return counts @ each + counts.square() @ pair


@dataclass(frozen=True)
class ImageCost:
    """FLOPs (2 x multiply-adds) of an image under any routing."""

    fixed: float
    """What every image costs, wherever its tokens go."""
    choosing: float
    """The part of that which only finds out where to look: routers, and what the model names in ``routing_modules``."""
    layers: Mapping[str, LayerCost]
    """The layers with a big and a small expert, by their paths; of a model that routes nothing, none."""
    constant_ratio: float | None = None
    """Share of an image that a model without such layers gives its big expert, where it says so."""

    def of_shares(self, shares: Mapping[str, Sequence[float]]) -> float:
        """FLOPs of an image on average, where a layer's tokens go to its experts in the ``shares`` of its path."""
        return self.fixed + sum(
            float(cost.spent(torch.tensor(shares[name], dtype=torch.float64) * cost.tokens))
            for name, cost in self.layers.items()
        )

    def of_counts(self, counts: Mapping[str, Tensor]) -> Tensor:
        """(B,) float64: FLOPs of each image, of whose tokens ``counts[layer]`` (B, E) went to the experts."""
        return self.fixed + torch.stack([cost.spent(counts[name]) for name, cost in self.layers.items()]).sum(0)

    @property
    def all_big(self) -> float:
        """FLOPs of an image whose every token goes to the big expert."""
        return self.of_shares(dict.fromkeys(self.layers, (1.0, 0.0)))

    @property
    def all_small(self) -> float:
        """FLOPs of an image whose every token goes to the small expert."""
        return self.of_shares(dict.fromkeys(self.layers, (0.0, 1.0)))


def split_layers(model: nn.Module) -> dict[str, MoELayer]:
    """The MoE layers that choose between a big and a small expert, by their paths."""
    return {n: m for n, m in model.named_modules() if isinstance(m, MoELayer) and isinstance(m.router, SplitRouter)}


def may_vary(model: nn.Module) -> bool:
    """Whether ``model`` spends more or less on an image, or is a control of such a one."""
    stated = getattr(model, "routing_ratio", "nothing")
    return stated is None or isinstance(stated, (int, float)) or bool(split_layers(model))


def image_cost(model: nn.Module, images: Tensor) -> ImageCost | None:
    """Count ``model`` once; ``None`` if it is none that spends more or less on an image, nor a control of such a one.

    Args:
        model: Run in evaluation mode, and left as it was. One without such layers that has a ``routing_ratio`` is a
            control: it gives its big expert this share of every image; ``None`` if it has no such choice at all.
        images: (B, C, H, W) of any content; a single one is enough.

    Raises:
        MoeZooError: A part with MoE layers is compiled, where nothing can be seen.
    """
    if not may_vary(model):
        return None
    layers, stated = split_layers(model), getattr(model, "routing_ratio", None)
    ratio = None if layers or stated is None else float(stated)
    counted, records = flops_and_routings(model, images)
    choosing = sum(counted.by_module.get(name, 0) for name in getattr(model, "routing_modules", ()))
    spent, tokens = 0.0, defaultdict[str, int](int)
    per_token = {name: _per_token(layer) for name, layer in layers.items()}
    for record in records:
        if record.name in layers:
            tokens[record.name] += record.routing.num_tokens
            spent += layers[record.name].experts.routed_flops(record.routing)
            choosing += layers[record.name].router.flops(record.routing)
    B = len(images)
    costs = {
        name: LayerCost(number // B, per_token[name], tuple(map(float, layers[name].experts.pair_flops())))
        for name, number in tokens.items()
    }
    return ImageCost((counted.analytic - spent) / B, choosing / B, costs, ratio)


def _per_token(layer: MoELayer) -> tuple[float, ...]:
    E = layer.num_experts
    return tuple(layer.experts.flops([ROWS * (e == chosen) for e in range(E)]) / ROWS for chosen in range(E))
