"""What a model loses when spectra are missing."""

from __future__ import annotations

import numpy as np

from moezoo.eval import MissingMatrix
from moezoo.viz.expert_classes import BLUES
from moezoo.viz.numbers import finite_array
from moezoo.viz.style import INK, Picture, new_figure, polish

FIGURES = {"mAP": "mAP", "r1": "Rank-1", "r5": "Rank-5", "r10": "Rank-10", "mINP": "mINP"}


def missing_modality_figure(matrix: MissingMatrix, *, title: str = "With spectra missing") -> Picture:
    """A row for every choice of spectra, a column for every figure; the darker the better, and by how much it is worse
    than with all of them.

    Args:
        matrix: Of :func:`moezoo.eval.missing_modality_matrix`.
        title: Above the picture.

    Returns:
        With ``data``: ``rows`` (names), ``columns`` and ``values`` (rows x columns).

    Raises:
        InputError: A figure is NaN, as where no query has a match.
    """
    values = finite_array("matrix", [[getattr(row, key) for key in FIGURES] for row in matrix.rows], dims=2)
    names = [_name(matrix.modalities, row.missing) for row in matrix.rows]
    figure = new_figure(1.15 * len(FIGURES) + 2.2, 0.52 * len(names) + 1.0)
    ax = figure.subplots()
    ax.imshow(values, cmap=BLUES, vmin=0, vmax=max(float(values.max()), 1e-12), aspect="auto", interpolation="nearest")
    polish(ax, title, grid=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelcolor=INK)
    ax.set_xticks(range(len(FIGURES)), list(FIGURES.values()))
    ax.set_yticks(range(len(names)), names)
    for (row, column), value in np.ndenumerate(values):
        lost = value - values[0, column]
        text = f"{value:.1%}" if row == 0 else f"{value:.1%}\n{100 * lost:+.1f}"
        color = "white" if value > 0.55 * values.max() else INK
        ax.text(column, row, text, ha="center", va="center", fontsize=8.5, color=color)
    figure.data = {"rows": names, "columns": list(FIGURES), "values": values}
    return figure


def _name(modalities: tuple[str, ...], missing: tuple[str, ...]) -> str:
    """``all``, ``without NIR``, or of those left ``TIR alone``."""
    left = [name for name in modalities if name not in missing]
    if not missing:
        return "all"
    return f"{left[0]} alone" if len(left) == 1 else f"without {', '.join(missing)}"
