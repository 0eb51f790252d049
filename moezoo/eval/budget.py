"""What the images of an evaluation cost a model with big and small experts, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from moezoo.eval.answers import placed
from moezoo.eval.batches import labelled_batches
from moezoo.eval.boxes import BoxCounter, BoxOverlap, box_of
from moezoo.eval.spread import Spread
from moezoo.measure.image_cost import ImageCost, image_cost
from moezoo.measure.per_image import rows_per_image
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing
from moezoo.moe.types import Routing


@dataclass(frozen=True)
class BudgetLatency:
    """Milliseconds per image, of batches; medians of interleaved rounds."""

    batch: int
    """Images per forward pass."""
    routed: float
    full: float
    """With every token to the big experts."""
    ratio: float
    """Median of ``routed`` over ``full`` in the same round."""


@dataclass(frozen=True)
class BudgetReport:
    """Of every image by its own routing. FLOPs are of one forward pass, 2 per multiply-add, by formula."""

    images: int
    ratio: Spread
    """Share of an image's tokens that went to a big expert, over all layers that have one."""
    flops_per_image: Spread
    without_encoder: Spread
    """The same without what the model spends on choosing, which a model that need not choose would not have."""
    full_flops: float
    """Of an image whose every token goes to the big experts."""
    cheap_flops: float
    """Of an image whose every token goes to the small experts."""
    box_overlap: BoxOverlap | None = None
    """Where the data set knows the places of its objects, and the tokens lie on a grid."""
    latency: BudgetLatency | None = None
    """Where it was asked for: :func:`budget_latency`."""

    @property
    def share_of_full(self) -> float:
        """Mean FLOPs over those of :attr:`full_flops`."""
        return self.flops_per_image.mean / self.full_flops


class BudgetCounter:
    """Adds up the images of a data set in its order: ``counter.add(records, images)``, then ``counter.report()``.

    Args:
        model: Run on the first image, to count what it costs, unless that is given.
        dataset: The images'; where it has ``box(index)``, their places are compared.
        cost: Of the model, as counted before it was cut into pieces for example.
    """

    def __init__(self, model: nn.Module, dataset: Any = None, cost: ImageCost | None = None):
        self.model, self.cost = model, cost
        self._looked = False
        self._ratios: list[Tensor] = []
        self._flops: list[Tensor] = []
        self._images = 0
        box = box_of(dataset)
        self._boxes = BoxCounter(box) if box is not None else None

    def add(self, records: Sequence[RoutingRecord], batch: Tensor) -> None:
        """Count the next images, (B, C, H, W), which gave ``records``."""
        if not self._looked:
            self._looked = True
            self.cost = self.cost or image_cost(self.model, placed(self.model, batch[:1]))
            if self.cost is not None and not self.cost.layers and self.cost.constant_ratio is None:
                self.cost = None  # a control without a big and a small expert
        if self.cost is not None:
            self._count(self.cost, records, len(batch))

    def _count(self, cost: ImageCost, records: Sequence[RoutingRecord], images: int) -> None:
        counts = {n: torch.zeros(images, len(each.per_token)).double() for n, each in cost.layers.items()}
        for record in records:
            if record.name not in counts:
                continue
            counts[record.name] += rows_per_image(record.routing, images)
            if self._boxes is not None and record.grid is not None:
                chosen = big_tokens(record.routing, images)[:, record.prefix_tokens :]
                self._boxes.add(chosen, record.grid, self._images)
        if counts:
            every = torch.stack(list(counts.values())).sum(0)
            self._ratios.append(every[:, 0] / every.sum(1))
            self._flops.append(cost.of_counts(counts))
        else:
            self._ratios.append(torch.full((images,), cost.constant_ratio or 0.0))
            self._flops.append(torch.full((images,), cost.fixed, dtype=torch.float64))
        self._images += images

    def report(self) -> BudgetReport | None:
        """Of all images added; ``None`` of a model that spends the same on every token, or without images."""
        if self.cost is None:
            return None
        flops = torch.cat(self._flops)
        return BudgetReport(
            images=self._images,
            ratio=Spread.of(torch.cat(self._ratios)),
            flops_per_image=Spread.of(flops),
            without_encoder=Spread.of(flops - self.cost.choosing),
            full_flops=self.cost.all_big,
            cheap_flops=self.cost.all_small,
            box_overlap=self._boxes.report() if self._boxes is not None else None,
        )


def budget_report(
    model: nn.Module, dataset: Dataset, *, batch_size: int = 128, num_workers: int = 0, cost: ImageCost | None = None
) -> BudgetReport | None:
    """Of every image of ``dataset``; ``None`` of a model that spends the same on every token.

    Arguments as of :func:`moezoo.eval.evaluate` and :class:`BudgetCounter`.
    """
    counter = BudgetCounter(model, dataset, cost)
    with evaluating(model):
        for images, _ in labelled_batches(dataset, batch_size, num_workers):
            with record_routing(model) as records:
                model(placed(model, images))
            counter.add(records, images)
    return counter.report()


def big_tokens(routing: Routing, images: int) -> Tensor:
    """(images, L) bool on the CPU: the tokens that the big expert, the first one, computes."""
    chosen = torch.zeros(routing.num_tokens, dtype=torch.bool, device=routing.token_index.device)
    chosen[routing.token_index[~routing.dropped & (routing.expert_index == 0)]] = True
    return chosen.view(images, -1).cpu()
