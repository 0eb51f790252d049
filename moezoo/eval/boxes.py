"""Whether the cells of an image that got the big expert are those where its object is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as fractions of the image's width and height."""


@dataclass(frozen=True)
class BoxOverlap:
    """How the chosen cells lie to the objects' boxes, over all images and layers together."""

    images: int
    inside: float
    """Share of the chosen cells' area that lies inside the box."""
    chance: float
    """The same of as many cells anywhere: the box's share of the image."""
    lift: float
    """``inside / chance``: 1 is no better than chance."""
    covered: float
    """Share of the box's area that was chosen; mean over images."""
    iou: float
    """Intersection of chosen cells and box over their union; mean over images."""
    iou_chance: float
    """The same of each image's number of cells at random places."""


class BoxCounter:
    """Adds up :class:`BoxOverlap` over batches."""

    def __init__(self, box: Callable[[int], Box]):
        self.box = box
        self._sums = torch.zeros(6, dtype=torch.float64)
        self._maps = self._images = 0
        self._generator = torch.Generator().manual_seed(0)  # of the random places: the same in every evaluation

    def add(self, chosen: Tensor, grid: tuple[int, int], first: int) -> None:
        """Count the images ``first``, ``first + 1``, … of the data set.

        Args:
            chosen: (B, rows * columns) bool, on the CPU.
            grid: Rows and columns.
            first: The index of the first of them.
        """
        boxes = torch.tensor([self.box(first + i) for i in range(len(chosen))], dtype=torch.float64)
        overlap = cell_overlap(boxes, grid)
        size = overlap.sum(1)
        cells = chosen.double()
        area = cells.mean(1)
        both = (cells * overlap).sum(1)
        order = torch.rand(cells.shape, generator=self._generator).argsort(1)
        elsewhere = (cells.gather(1, order) * overlap).sum(1)
        tiny = torch.finfo(torch.float64).tiny
        self._sums += torch.stack(
            [
                both.sum(),
                (area * size).sum(),
                area.sum(),
                (both / size.clamp(min=tiny)).sum(),
                (both / (area + size - both).clamp(min=tiny)).sum(),
                (elsewhere / (area + size - elsewhere).clamp(min=tiny)).sum(),
            ]
        )
        self._maps += len(chosen)
        self._images = max(self._images, first + len(chosen))

    def report(self) -> BoxOverlap | None:
        """Of everything added; ``None`` of nothing. Where no cell was chosen, ``inside`` and ``lift`` are NaN."""
        if not self._maps:
            return None
        both, by_chance, area, covered, iou, iou_chance = self._sums.tolist()
        nan = float("nan")
        return BoxOverlap(
            images=self._images,
            inside=both / area if area else nan,
            chance=by_chance / area if area else nan,
            lift=both / by_chance if by_chance else nan,
            covered=covered / self._maps,
            iou=iou / self._maps,
            iou_chance=iou_chance / self._maps,
        )


def cell_overlap(boxes: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, rows * columns): how much of the image's area lies in both a cell and the image's box, of (B, 4) boxes."""
    rows, columns = grid
    left, top, right, bottom = boxes.double().unbind(1)
    down = _shared(top, bottom, rows)
    across = _shared(left, right, columns)
    return (down[:, :, None] * across[:, None, :]).flatten(1)


def box_of(dataset: Any) -> Callable[[int], Box] | None:
    """Where ``dataset`` says its objects are, if it does."""
    box = getattr(dataset, "box", None)
    return box if callable(box) else None


def _shared(low: Tensor, high: Tensor, parts: int) -> Tensor:
    """(B, parts): the length that each of as many equal parts of [0, 1] shares with [low, high]."""
    edges = torch.linspace(0, 1, parts + 1, dtype=torch.float64)
    return (torch.minimum(high[:, None], edges[1:]) - torch.maximum(low[:, None], edges[:-1])).clamp(min=0)
