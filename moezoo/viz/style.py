"""Colours, fonts and files: what all pictures share."""

from __future__ import annotations

from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from moezoo.errors import OutputError

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


def new_figure(width: float, height: float, *, pad: float = 0.08) -> Figure:
    """A white figure of that many inches, ``pad`` inches around its axes, which lay themselves out."""
    layout = ConstrainedLayoutEngine(w_pad=pad, h_pad=pad)
    return Figure(figsize=(width, height), layout=layout, facecolor="white")


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
