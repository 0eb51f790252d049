"""The confusion matrix."""

from __future__ import annotations

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from moezoo.eval import Classification
from moezoo.viz.style import INK, MUTED, Picture, new_figure

NUMBERED = 20
"""Up to this many classes every cell shows its count."""


def confusion_figure(result: Classification, title: str = "Confusion matrix") -> Picture:
    """True classes as rows, predictions as columns, coloured by the share of the row: right blue, wrong red.

    Args:
        result: Of :func:`moezoo.eval.evaluate` or :func:`moezoo.eval.classification_metrics`.
        title: Above the picture.
    """
    counts = np.array(result.confusion)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    right = np.eye(len(counts), dtype=bool)
    side = min(3.2 + 0.36 * len(counts), 12)
    figure = new_figure(side, side)
    ax = figure.subplots()
    blue = LinearSegmentedColormap.from_list("right", ["#f3f7fb", "#0072b2"])
    red = LinearSegmentedColormap.from_list("wrong", ["#ffffff", "#d55e00"])
    # A mistake of a tenth of a class is a bad one: its colour is full.
    picture = np.where(right[..., None], blue(share), red(np.minimum(share * 10, 1)))
    ax.imshow(picture, interpolation="nearest")
    names = [report.label for report in result.labels]
    if len(names) <= NUMBERED:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                strong = share[row, column] > (0.55 if row == column else 0.07)
                ax.text(
                    column,
                    row,
                    str(count),
                    ha="center",
                    va="center",
                    fontsize=10,
                    color="white" if strong else INK,
                    fontweight="bold" if row != column else "normal",
                )
        ax.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names)) < 4 else 45)
        ax.set_yticks(range(len(names)), names)
    ax.set_xticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(len(counts) + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white" if len(names) > NUMBERED else "#e5e7eb", linewidth=0.8)
    ax.tick_params(which="both", length=0, labelsize=10, labelcolor=INK)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("predicted", fontsize=10, color=MUTED)
    ax.set_ylabel("true", fontsize=10, color=MUTED)
    wrong = result.samples - int(np.trace(counts))
    ax.set_title(f"{title}\n", loc="left", fontsize=12, fontweight="bold", color=INK)
    ax.text(
        0,
        1.02,
        f"{result.top1:.2%} right, {wrong} of {result.samples} wrong",
        transform=ax.transAxes,
        fontsize=9.5,
        color=MUTED,
    )
    figure.data = {"labels": names, "counts": counts}
    return figure
