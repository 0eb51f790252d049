"""How much each cell of each spectrum counts for the decision."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.eval.explanation.erasing import cell_sums
from moezoo.eval.explanation.scoring import Scorer

WINDOW = 2
"""Cells along a side of what is erased at once: evidence that repeats itself is missed by too small a hole."""


def occlusion(scorer: Scorer, whole: Tensor, alive: Tensor, cells: tuple[int, int], window: int = WINDOW) -> Tensor:
    """By how much the score falls when a window slides over the image, the mean over the windows that cover a cell.

    Zeiler and Fergus 2014, "Visualizing and Understanding Convolutional Networks".

    Args:
        scorer: Of the images.
        whole: (B,) scores of the whole images.
        alive: (B, M) bool: which spectra are there.
        cells: Rows and columns.
        window: Cells along its side.

    Returns:
        (B, M, rows, columns) float64; 0 for a spectrum that is not there.
    """
    down, across = (min(window, side) for side in cells)
    holes = torch.stack(
        [
            _hole(cells, slice(row, row + down), slice(column, column + across))
            for row in range(cells[0] - down + 1)
            for column in range(cells[1] - across + 1)
        ]
    )
    case, modality, hole = (each.flatten() for each in torch.meshgrid(*_ranges(alive, len(holes)), indexing="ij"))
    used = alive[case, modality]
    case, modality, hole = case[used], modality[used], hole[used]
    erased = torch.zeros(len(case), alive.shape[1], *cells, dtype=torch.bool)
    erased[torch.arange(len(case)), modality] = holes[hole]
    falls = torch.zeros(*alive.shape, len(holes), dtype=torch.float64)
    falls[case, modality, hole] = whole[case] - scorer("saliency", case, erased)
    covering = holes.double()
    return torch.einsum("bmh,hrc->bmrc", falls, covering) / covering.sum(0)


def integrated_gradients(scorer: Scorer, alive: Tensor, cells: tuple[int, int], steps: int) -> Tensor:
    """The gradient's mean along the line from the erased image to the whole one, times their difference.

    Sundararajan, Taly and Yan 2017, "Axiomatic Attribution for Deep Networks". Of a smooth model the sum over all cells
    is the score's difference between the two images.

    Args:
        scorer: Of the images.
        alive: (B, M) bool: which spectra are there.
        cells: Rows and columns.
        steps: Points on the line.

    Returns:
        As of :func:`occlusion`.

    Raises:
        InputError: The model has no gradient of its input.
    """
    total = torch.zeros(*alive.shape, *cells, dtype=torch.float64)
    points = (torch.arange(steps) + 0.5) / steps
    case, point = torch.arange(len(alive)).repeat_interleave(steps), points.repeat(len(alive))
    for start in range(0, len(case), scorer.batch_size):
        some, part = case[start : start + scorer.batch_size], point[start : start + scorer.batch_size]
        way = scorer.images[some] - scorer.filled[some]
        with torch.enable_grad():
            images = (scorer.filled[some] + part.view(-1, 1, 1, 1, 1).to(way) * way).requires_grad_(True)
            score = scorer.decision.score(scorer.as_taken(images), some)
            gradient = torch.autograd.grad(score.sum(), images, allow_unused=True)[0] if score.requires_grad else None
        if gradient is None:
            raise InputError("the model's answer has no gradient of its images: method='occlusion' needs none")
        sums = cell_sums((gradient * way).sum(2), cells).cpu().double()
        total.index_add_(0, some, sums / steps)
        if scorer.progress is not None:
            scorer.progress("saliency", start + len(some), len(case))
    return total * alive[..., None, None]


def _hole(cells: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    hole = torch.zeros(cells, dtype=torch.bool)
    hole[rows, columns] = True
    return hole


def _ranges(alive: Tensor, holes: int) -> tuple[Tensor, ...]:
    return tuple(torch.arange(number) for number in (*alive.shape, holes))
