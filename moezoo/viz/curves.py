"""Training curves of one run, or of several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.ticker import MaxNLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.train.result import EpochMetrics
from moezoo.viz.style import INK, RUNS, Picture, new_figure, polish

CROSS_ENTROPY = ("accuracy", "token_accuracy")
"""Scores whose loss is a plain cross-entropy; others are trained by a sum of several."""


def training_figure(runs: Mapping[str, Sequence[EpochMetrics]]) -> Picture:
    """Training loss and validation score over the epochs, the chosen epoch of each run marked.

    Args:
        runs: Title of a run to its epochs: ``{"MoE": result.history, "dense twin": dense.history}``.

    Returns:
        With ``data``: title to ``epochs``, ``loss``, ``score``, ``score_name`` and ``chosen``.

    Raises:
        InputError: There is no run, a run has no epoch, or the runs were judged by different scores.
    """
    if not runs or not all(runs.values()):
        raise InputError("training_figure needs at least one run of at least one epoch")
    names = {epoch.score_name for history in runs.values() for epoch in history}
    if len(names) > 1:
        raise InputError(f"the runs were judged by {', '.join(sorted(names))}: draw those of one score together")
    name = names.pop()
    figure = new_figure(10, 3.9)
    loss_ax, score_ax = figure.subplots(1, 2)
    polish(loss_ax, "Training loss", xlabel="epoch", ylabel="cross-entropy, nats" if name in CROSS_ENTROPY else "loss")
    polish(score_ax, f"Validation {name.replace('_', ' ')}", xlabel="epoch")
    floor = 1.0
    for index, (title, history) in enumerate(runs.items()):
        color = RUNS[index % len(RUNS)]
        best = max(history, key=lambda m: m.key)
        epochs, scores = [m.epoch for m in history], [m.score for m in history]
        style = {"color": color, "linewidth": 2, "solid_capstyle": "round"}
        loss_ax.plot(epochs, [m.loss for m in history], label=title, **style)
        score_ax.plot(epochs, scores, **style)
        dot = {"color": color, "marker": "o", "markersize": 7, "markeredgecolor": "white", "zorder": 5}
        chosen = f"{title}: {best.score:.2%}, epoch {best.epoch} chosen"
        score_ax.plot([best.epoch], [best.score], linestyle="none", label=chosen, **dot)
        # The first steep climb would flatten what one wants to compare.
        floor = min([floor, *scores[len(history) // 2 :]])
        figure.data[title] = {
            "epochs": epochs,
            "loss": [m.loss for m in history],
            "score": scores,
            "score_name": name,
            "chosen": best.epoch,
        }
    bottom = max(math.floor(floor * 20 - 0.2) / 20, 0.0)
    score_ax.set_ylim(bottom, 1 + (1 - bottom) * 0.03)
    score_ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    loss_ax.set_ylim(bottom=0)
    for ax, place in ((loss_ax, "upper right"), (score_ax, "lower right")):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
        ax.legend(loc=place, frameon=False, fontsize=9, labelcolor=INK)
    return figure
