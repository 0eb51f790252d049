"""Heat over an image: how much of something each cell of its token grid has."""

from __future__ import annotations

import math
import textwrap

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.patheffects import withStroke
from torch.nn import functional as F

from moezoo.viz.style import MUTED, Picture, show_image

HEAT = matplotlib.colormaps["inferno"]
FINE = 15
"""Odd, so that a cell's own score stands at its centre exactly."""


def show_heat(ax: Axes, pixels: np.ndarray, heat: np.ndarray, highest: float) -> None:
    """The image in grey under the colours of ``heat``; the cells tile it exactly, whatever the two sizes.

    Args:
        ax: Where.
        pixels: (H, W, C) in [0, 1].
        heat: (rows, columns), 0 or more.
        highest: The value of the lightest colour.
    """
    _show_colors(ax, pixels, HEAT(np.clip(heat / max(highest, 1e-12), 0, 1)), 0.75)


def show_smooth_heat(
    ax: Axes, pixels: np.ndarray, heat: np.ndarray, span: tuple[float, float], level: float = math.nan
) -> np.ndarray:
    """The same without edges between the cells: bilinear between their centres, where each cell's own value stands.

    Args:
        ax: Where.
        pixels: (H, W, C) in [0, 1].
        heat: (rows, columns).
        span: The values of the darkest and the lightest colour.
        level: A line goes where the heat crosses it; NaN for none.

    Returns:
        (rows * FINE, columns * FINE) the heat as drawn.
    """
    fine = smooth(heat)
    height, width = pixels.shape[:2]
    _show_colors(ax, pixels, HEAT(Normalize(*span, clip=True)(fine)), 0.66, shade=0.85)
    if fine.min() < level <= fine.max():
        y, x = ((np.arange(n) + 0.5) / n for n in fine.shape)
        lines = ax.contour(x * width, y * height, fine, levels=[level], colors="white", linewidths=1.4)
        lines.set(path_effects=[withStroke(linewidth=3, foreground="black", alpha=0.7)])
    return fine


def smooth(heat: np.ndarray) -> np.ndarray:
    """(rows * FINE, columns * FINE) of (rows, columns)."""
    size = [n * FINE for n in heat.shape]
    values = torch.from_numpy(np.ascontiguousarray(heat))[None, None].double()
    return F.interpolate(values, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()


def heat_span(values: np.ndarray) -> tuple[float, float]:
    """Round ends for a colour bar that values in [0, 1] fill, at least a tenth apart."""
    low, high = math.floor(float(values.min()) * 20), math.ceil(float(values.max()) * 20)
    while high - low < 2:
        low, high = max(low - 1, 0), min(high + 1, 20)
    return low / 20, high / 20


def heat_bar(
    figure: Picture, label: str, highest: float, lowest: float = 0.0, marks: tuple[float, ...] = ()
) -> Colorbar:
    """What the colours mean, below all axes of ``figure``; lines at ``marks``."""
    mappable = ScalarMappable(Normalize(lowest, highest), HEAT)
    bar = figure.colorbar(mappable, ax=figure.axes, orientation="horizontal", fraction=0.05, aspect=50, pad=0.02)
    bar.set_label(textwrap.fill(label, max(int(13 * figure.get_figwidth()), 30)), fontsize=9, color=MUTED)
    bar.ax.tick_params(labelsize=8, labelcolor=MUTED)
    bar.outline.set_visible(False)
    for mark in marks:
        bar.ax.axvline(mark, color="white", linewidth=2, path_effects=[withStroke(linewidth=4, foreground="black")])
    return bar


def _show_colors(ax: Axes, pixels: np.ndarray, colors: np.ndarray, opacity: float, shade: float = 1.0) -> None:
    height, width = pixels.shape[:2]
    show_image(ax, shade * pixels.mean(-1, keepdims=True))
    colors[..., 3] = opacity  # the image is a hint of the place; the colour is the number
    ax.imshow(colors, interpolation="nearest", extent=(0, width, height, 0))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)
