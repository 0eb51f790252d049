"""Heat over an image: how much of something each cell of its token grid has."""

from __future__ import annotations

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from moezoo.viz.style import MUTED, Picture, show_image

HEAT = matplotlib.colormaps["inferno"]


def show_heat(ax: Axes, pixels: np.ndarray, heat: np.ndarray, highest: float) -> None:
    """The image in grey under the colours of ``heat``; the cells tile it exactly, whatever the two sizes.

    Args:
        ax: Where.
        pixels: (H, W, C) in [0, 1].
        heat: (rows, columns), 0 or more.
        highest: The value of the lightest colour.
    """
    height, width = pixels.shape[:2]
    show_image(ax, pixels.mean(-1, keepdims=True))
    colors = HEAT(np.clip(heat / max(highest, 1e-12), 0, 1))
    colors[..., 3] = 0.75  # the image is a hint of the place; the colour is the number
    ax.imshow(colors, interpolation="nearest", extent=(0, width, height, 0))
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def heat_bar(figure: Picture, label: str, highest: float) -> None:
    """What the colours of :func:`show_heat` mean, below all axes of ``figure``."""
    mappable = ScalarMappable(Normalize(0, highest), HEAT)
    bar = figure.colorbar(mappable, ax=figure.axes, orientation="horizontal", fraction=0.05, aspect=50, pad=0.02)
    bar.set_label(label, fontsize=9, color=MUTED)
    bar.ax.tick_params(labelsize=8, labelcolor=MUTED)
    bar.outline.set_visible(False)
