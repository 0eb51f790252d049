"""Images cut into cells, some of which are erased."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_int

LONGER_SIDE = 8
"""Cells along the longer side of an image, where nothing else is asked for."""
FILLS = ("mean", "blur")


def cell_grid(size: tuple[int, int], cells: tuple[int, int] | None = None) -> tuple[int, int]:
    """Rows and columns of cells of an image of ``size`` (height, width): ``cells``, or about square ones.

    Raises:
        ConfigError: There are more cells than pixels, or ``cells`` is not two whole numbers.
    """
    if cells is None:
        side = max(max(size) / LONGER_SIDE, 1)
        return max(round(size[0] / side), 1), max(round(size[1] / side), 1)
    if not isinstance(cells, (tuple, list)) or len(cells) != 2:
        raise ConfigError(f"cells={cells!r} is not allowed: it must be (rows, columns).")
    rows = check_int("cells[0]", cells[0], low=1, high=size[0])
    return rows, check_int("cells[1]", cells[1], low=1, high=size[1])


def filling(images: Tensor, fill: str) -> Tensor:
    """What stands where something was erased: (B, M, C, H, W) like ``images``.

    Args:
        images: (B, M, C, H, W).
        fill: ``mean`` of the image and channel, or the ``blur`` of the image, which keeps its coarse forms.
    """
    if check_choice("fill", fill, FILLS) == "mean":
        return images.mean((-2, -1), keepdim=True).expand_as(images)
    sigma = max(images.shape[-2:]) / 10
    sides = [2 * min(round(2 * sigma), (side - 1) // 2) + 1 for side in images.shape[-2:]]  # odd, no more than there is
    return gaussian_blur(images.flatten(0, 1), [sides[1], sides[0]], [sigma, sigma]).view_as(images)


def erase(images: Tensor, erased: Tensor, filled: Tensor) -> Tensor:
    """``images`` with ``filled`` in the erased cells.

    Args:
        images: (n, M, C, H, W).
        erased: (n, M, rows, columns) bool.
        filled: Like ``images``.
    """
    return torch.where(over_pixels(erased, images.shape[-2:])[:, :, None], filled, images)


def over_pixels(cells: Tensor, size: torch.Size | tuple[int, int]) -> Tensor:
    """(..., H, W) of (..., rows, columns): every pixel has the value of its cell."""
    row, column = (_cell_of(number, side, cells.device) for number, side in zip(cells.shape[-2:], size, strict=True))
    return cells[..., row[:, None], column[None, :]]


def cell_sums(values: Tensor, cells: tuple[int, int]) -> Tensor:
    """(..., rows, columns): the sum of (..., H, W) over the pixels of each cell."""
    row, column = (_cell_of(n, side, values.device) for n, side in zip(cells, values.shape[-2:], strict=True))
    place = (row[:, None] * cells[1] + column[None, :]).flatten()
    sums = torch.zeros(*values.shape[:-2], cells[0] * cells[1], dtype=values.dtype, device=values.device)
    return sums.index_add(-1, place, values.flatten(-2)).unflatten(-1, cells)


def _cell_of(number: int, side: int, device: torch.device) -> Tensor:
    return torch.arange(side, device=device) * number // side
