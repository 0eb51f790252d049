"""Which cells of an image went to the big expert, drawn over it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle

from moezoo.viz.style import INK, show_image

Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge, as fractions of the image's width and height."""
Boxes = Sequence[Box | None]
ROUTED, PLACE = "#e69f00", "#56b4e9"
"""Colours of the outline of what is computed by the big expert, and of the box of what is to be found."""
VEIL = 0.86
"""Shade of grey that what is left to the small expert fades to: seen as faded on light images and on dark ones."""


def show_decisions(ax: Axes, pixels: np.ndarray, chosen: np.ndarray, *, lines: bool = True) -> None:
    """The image with the chosen cells as they are, outlined, and the others faded.

    Args:
        ax: Where.
        pixels: (H, W, C) in [0, 1].
        chosen: (rows, columns) bool.
        lines: Draw the grid, unless it is finer than 32 cells.
    """
    (height, width), (rows, columns) = pixels.shape[:2], chosen.shape
    show_image(ax, pixels)
    veil = np.full((rows, columns, 4), VEIL)
    veil[..., 3] = np.where(chosen, 0, 0.78)
    ax.imshow(veil, interpolation="nearest", extent=(0, width, height, 0))
    if lines and max(rows, columns) <= 32:
        ax.hlines(np.arange(1, rows) * height / rows, 0, width, colors="white", linewidth=0.4, alpha=0.5)
        ax.vlines(np.arange(1, columns) * width / columns, 0, height, colors="white", linewidth=0.4, alpha=0.5)
    edges = outline(chosen) * np.array([width / columns, height / rows])
    for color, linewidth in ((INK, 3.2), (ROUTED, 1.8)):  # seen on light images and on dark ones
        ax.add_collection(LineCollection(edges, colors=color, linewidths=linewidth, capstyle="projecting"))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def outline(chosen: np.ndarray) -> np.ndarray:
    """(lines, 2, 2): the edges between chosen cells and others, or the border, each from (x, y) to (x, y) in cells."""
    padded = np.pad(chosen.astype(bool), 1)
    rows, columns = np.nonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    across = [((x, y), (x + 1, y)) for y, x in zip(rows, columns, strict=True)]
    rows, columns = np.nonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    down = [((x, y), (x, y + 1)) for y, x in zip(rows, columns, strict=True)]
    return np.array(across + down, dtype=float).reshape(-1, 2, 2)


def show_box(ax: Axes, box: Box | None, size: tuple[int, int]) -> None:
    """A frame around ``box`` on an image of ``size`` (height, width); ``None`` draws nothing."""
    if box is None:
        return
    (left, top, right, bottom), (height, width) = box, size
    corner, sides = (left * width, top * height), ((right - left) * width, (bottom - top) * height)
    for color, linewidth in ((INK, 2.4), (PLACE, 1.3)):
        ax.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=color, linewidth=linewidth, zorder=3))
