"""Confidence against accuracy."""

from __future__ import annotations

import math

from matplotlib.ticker import PercentFormatter

from moezoo.errors import InputError
from moezoo.eval import Classification
from moezoo.viz.style import ALERT, INK, MUTED, RUNS, Picture, new_figure, polish


def reliability_figure(result: Classification, title: str = "Calibration") -> Picture:
    """How often the model is right when it is so sure, above how many images there are of each confidence.

    Args:
        result: Of :func:`moezoo.eval.evaluate` or :func:`moezoo.eval.classification_metrics`.
        title: Above the picture.

    Raises:
        InputError: No image has an answer.
    """
    bins = result.reliability
    if not bins:
        raise InputError("reliability_figure needs at least one image with an answer that is not NaN")
    figure = new_figure(4.6, 5.4)
    ax, count_ax = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    polish(ax, title, ylabel="right")
    polish(count_ax, xlabel="confidence", ylabel="images")
    centers, widths = [(b.low + b.high) / 2 for b in bins], [(b.high - b.low) * 0.92 for b in bins]
    ax.bar(centers, [b.accuracy for b in bins], widths, color=RUNS[0], label="right")
    # The gap is what the calibration error adds up.
    bottoms = [min(b.accuracy, b.confidence) for b in bins]
    gaps = [abs(b.accuracy - b.confidence) for b in bins]
    ax.bar(centers, gaps, widths, bottom=bottoms, facecolor="#ffffff99", hatch="///", edgecolor=ALERT, label="gap")
    ax.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle="--", label="as sure as right")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    count_ax.bar(centers, [b.count for b in bins], widths, color=MUTED)
    ax.legend(loc="upper left", frameon=False, fontsize=9, labelcolor=INK)
    error = result.calibration_error
    text = "" if math.isnan(error) else f"calibration error {error:.2%}"
    ax.set_title(text, loc="right", fontsize=9.5, color=MUTED)
    figure.data = {"bins": bins}
    return figure
