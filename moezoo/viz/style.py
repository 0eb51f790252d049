"""Colours, fonts and files: what all pictures share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from torch import Tensor

from moezoo.errors import OutputError
from moezoo.viz.fonts import make_readable

INK, MUTED, GRID, ALERT = "#1f2430", "#6b7280", "#e5e7eb", "#d55e00"
# Told apart under the common colour blindnesses, on light and dark images (after Okabe and Ito, 2008).
_EXPERTS = ("#0072b2", "#e69f00", "#009e73", "#cc3d7a", "#56b4e9", "#d55e00", "#8c6bb1", "#f0d43a")
RUNS = ("#0072b2", "#d55e00", "#009e73", "#8c6bb1")


def expert_colors(num_experts: int) -> list[tuple[float, float, float]]:
    """One RGB colour per expert, the same in every picture; beyond eight, evenly spread over the hues."""
    if num_experts <= len(_EXPERTS):
        return [to_rgb(color) for color in _EXPERTS[:num_experts]]
    hues = matplotlib.colormaps["turbo"]
    return [hues((i + 0.5) / num_experts)[:3] for i in range(num_experts)]


class Picture(Figure):
    """A figure that knows its numbers, and whose texts can be read whatever their language."""

    data: dict[str, Any]
    """What is drawn, by name: numbers, lists and arrays."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.data = {}

    def draw(self, renderer: Any) -> None:
        """Draw it; every way to a file comes through here."""
        make_readable(self)
        super().draw(renderer)


def new_figure(width: float, height: float, *, pad: float = 0.08) -> Picture:
    """A white figure of that many inches, ``pad`` inches around its axes, which lay themselves out."""
    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
    return Picture(figsize=(width, height), layout=layout, facecolor="white")


def show_image(ax: Axes, pixels: np.ndarray) -> None:
    """An image without ticks or a box.

    Args:
        ax: Where.
        pixels: (H, W, C) in [0, 1], C 1 or 3.
    """
    height, width = pixels.shape[:2]
    gray = pixels.shape[2] == 1
    ax.imshow(
        pixels[..., 0] if gray else pixels,
        cmap="gray" if gray else None,
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(0, width, height, 0),
    )
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_visible(False)


def to_arrays(images: Tensor) -> np.ndarray:
    """(B, H, W, C) float pixels of (B, C, H, W) images in [0, 1]."""
    return images.detach().float().cpu().clamp(0, 1).permute(0, 2, 3, 1).numpy()


def polish(ax: Axes, title: str = "", *, xlabel: str = "", ylabel: str = "", grid: bool = True) -> None:
    """Quiet axes: no box, light lines, small grey numbers, the title at the left."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=8)
    ax.set_xlabel(xlabel, fontsize=9.5, color=MUTED)
    ax.set_ylabel(ylabel, fontsize=9.5, color=MUTED)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(GRID)
    ax.tick_params(labelsize=9, labelcolor=MUTED, color=GRID)
    if grid:
        ax.grid(axis="y", color=GRID, linewidth=0.8)
        ax.set_axisbelow(True)


def save_figure(figure: Figure, path: str | Path, *, dpi: int = 160) -> Path:
    """Write ``figure`` to ``path`` (the ending decides the format; PNG without one) and return the path.

    Raises:
        OutputError: The file cannot be written.
    """
    path = Path(path)
    if not path.suffix:
        path = path.with_suffix(".png")
    try:
        figure.savefig(path, dpi=dpi, facecolor=figure.get_facecolor())
    except OSError as error:
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
    return path
