"""Cells of the original image, with a margin round each, cut for those that ask."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import InputError


def cell_windows(images: Tensor, grid: tuple[int, int], context: int = 0) -> Tensor:
    """(B, C, H, W) images to a view (B, rows, columns, C, h, w): the image at each cell. Nothing is copied.

    Args:
        images: With sides that the grid divides.
        grid: Rows and columns of the cells.
        context: Pixels of margin on each side of a cell; beyond the image they are zero, the mean of a normalised one.
    """
    rows, columns = grid
    height, width = images.shape[2] // rows, images.shape[3] // columns
    if context:
        images = F.pad(images, (context,) * 4)
    windows = images.unfold(2, height + 2 * context, height).unfold(3, width + 2 * context, width)
    return windows.permute(0, 2, 3, 1, 4, 5)


def crop_cells(images: Tensor, grid: tuple[int, int], context: int = 0) -> Tensor:
    """(B, C, H, W) images to (B, N, C, h, w): :func:`cell_windows` of all N = rows x columns cells, row by row."""
    return cell_windows(images, grid, context).flatten(1, 2)


class CellRows:
    """What the MLPs read of T = B x N cells, made when they ask for it.

    Args:
        crops: (B, rows, columns, C, h, w) the image at each cell, a view.
        features: (B, N, D) the encoder's, where there is one.
    """

    def __init__(self, crops: Tensor, features: Tensor | None):
        self.windows = crops
        self.features_TD = None if features is None else features.flatten(0, 1)

    def crop(self, cells: Tensor | None) -> Tensor:
        """(n, C * h * w) of n cells, given by their place among all T; ``None``: all of them."""
        if cells is None:
            return self.windows.flatten(3).flatten(0, 2)
        _, rows, columns = self.windows.shape[:3]
        return self.windows[cells // (rows * columns), cells // columns % rows, cells % columns].flatten(1)

    def features(self, cells: Tensor | None) -> Tensor:
        """(n, D)."""
        assert self.features_TD is not None, "nothing was encoded"
        return self.features_TD if cells is None else self.features_TD.index_select(0, cells)

    def both(self, cells: Tensor | None) -> Tensor:
        """(n, C * h * w + D)."""
        crop, features = self.crop(cells), self.features(cells)
        return torch.cat(
            [crop.to(features.dtype), features], dim=1
        )  # under autocast the features are of lower precision


def given_windows(patches: Tensor, batch: int, grid: tuple[int, int], shape: tuple[int, int, int]) -> Tensor:
    """Patches that the caller cut, (B, N, C, h, w) or (B, N, C * h * w), as :func:`cell_windows` gives them.

    Raises:
        InputError: They have another shape or are no floating-point tensor.
    """
    cells, (channels, height, width) = grid[0] * grid[1], shape
    numbers = channels * height * width
    fits = isinstance(patches, Tensor) and patches.is_floating_point()
    if not fits or tuple(patches.shape) not in ((batch, cells, *shape), (batch, cells, numbers)):
        got = f"{patches.dtype} {tuple(patches.shape)}" if isinstance(patches, Tensor) else repr(patches)[:80]
        raise InputError(
            f"patches must be floating point ({batch}, {cells}, {channels}, {height}, {width}), one for every cell, or "
            f"these flattened to ({batch}, {cells}, {numbers}), got {got}."
        )
    return patches.reshape(batch, *grid, *shape)
