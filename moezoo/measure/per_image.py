"""FLOPs of each image of a batch: what its own routing executed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from moezoo.errors import InputError
from moezoo.measure.flops import flops_and_routings
from moezoo.moe.layer import MoELayer
from moezoo.moe.types import Routing


@dataclass(frozen=True)
class PerImageFlops:
    """FLOPs (2 x multiply-adds) of the images of one batch."""

    flops: Tensor
    """(B,) float64 of each image; they sum to :attr:`moezoo.measure.Flops.analytic` of the batch."""
    without_encoder: Tensor
    """(B,) the same but for what only looks where to look: the model's ``routing_modules``, and its routers."""

    @property
    def mean(self) -> float:
        return float(self.flops.mean())

    @property
    def p50(self) -> float:
        return float(self.flops.quantile(0.5))

    @property
    def p95(self) -> float:
        return float(self.flops.quantile(0.95))


def flops_per_image(model: nn.Module, input: Any) -> PerImageFlops:
    """Run ``model`` once on a batch in evaluation mode and tell what each image cost.

    What is outside MoE layers costs every image the same; of each layer an image pays for its own tokens.

    Args:
        model: Modules that it names in ``routing_modules`` (the parts that only find out where to look) are left out
            of ``without_encoder``.
        input: At least one image; see :func:`moezoo.measure.flops`.

    Returns:
        By formula, from each image's own routing; their sum is ``moezoo.measure.flops(model, input).analytic``.

    Raises:
        InputError: The batch is empty, or a layer's tokens cannot be divided among its images.
    """
    model = getattr(model, "_orig_mod", model)
    images = _batch_of(input)
    counted, records = flops_and_routings(model, input)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, MoELayer)}
    outside = counted.executed - sum(counted.by_module.get(name, 0) for name in layers)
    looking = sum(counted.by_module.get(name, 0) for name in getattr(model, "routing_modules", ()))
    total = torch.full((images,), outside / images, dtype=torch.float64)
    for record in records:
        routing, layer = record.routing, layers[record.name]
        if routing.num_tokens % images:
            raise InputError(f"the {routing.num_tokens} tokens of {record.name!r} are not those of {images} images")
        chosen = layer.router.flops(routing)
        shared = layer.shared.flops_per_row() * routing.num_tokens if layer.shared is not None else 0
        total += (chosen + shared) / images + _of_experts(layer, routing, images)
        looking += chosen
    return PerImageFlops(total, total - looking / images)


def _of_experts(layer: MoELayer, routing: Routing, images: int) -> Tensor:
    """(B,) what the experts compute for each image: of what an expert's rows cost, the share of its own."""
    rows_BE = rows_per_image(routing, images)
    rows = [int(n) for n in rows_BE.sum(0).round()]
    each = [layer.experts.flops([n * (e == one) for e, n in enumerate(rows)]) for one in range(len(rows))]
    per_row_E = torch.tensor([cost / max(n, 1) for cost, n in zip(each, rows, strict=True)], dtype=torch.float64)
    return rows_BE @ per_row_E + rows_BE.square() @ torch.tensor(layer.experts.pair_flops(), dtype=torch.float64)


def rows_per_image(routing: Routing, images: int) -> Tensor:
    """(B, E) float64 on the CPU: rows that the experts compute for each image."""
    E = routing.num_experts
    if routing.slots is not None:
        return torch.tensor(routing.expert_rows(), dtype=torch.float64).expand(images, E) / images
    image_N = routing.token_index // max(routing.num_tokens // images, 1)
    count = (image_N * E + routing.expert_index)[~routing.dropped].bincount(minlength=images * E)
    return count.reshape(images, E).double().cpu()


def _batch_of(input: Any) -> int:
    """The images of a batch: the length of its first tensor."""
    lengths = [len(leaf) for leaf in tree_leaves(input) if isinstance(leaf, Tensor)]
    if not lengths or not lengths[0]:
        raise InputError("the FLOPs of an image cannot be counted without one: the batch is empty.")
    return lengths[0]
