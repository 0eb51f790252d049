"""Training curves of one run, or of several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.train.result import EpochMetrics
from moezoo.viz.style import INK, RUNS, new_figure, polish


def training_figure(runs: Mapping[str, Sequence[EpochMetrics]]) -> Figure:
    """Training loss and validation accuracy over the epochs, the chosen epoch of each run marked.

    Args:
        runs: Title of a run to its epochs: ``{"MoE": result.history, "dense twin": dense.history}``.

    Raises:
        InputError: There is no run, or a run has no epoch.
    """
    if not runs or not all(runs.values()):
        raise InputError("training_figure needs at least one run of at least one epoch")
    figure = new_figure(10, 3.9)
    loss_ax, accuracy_ax = figure.subplots(1, 2)
    polish(loss_ax, "Training loss", xlabel="epoch", ylabel="cross-entropy, nats")
    polish(accuracy_ax, "Validation accuracy", xlabel="epoch")
    floor = 1.0
    for index, (title, history) in enumerate(runs.items()):
        color = RUNS[index % len(RUNS)]
        best = max(history, key=lambda m: (m.val_accuracy, -m.val_loss))
        epochs = [m.epoch for m in history]
        style = {"color": color, "linewidth": 2, "solid_capstyle": "round"}
        loss_ax.plot(epochs, [m.loss for m in history], label=title, **style)
        accuracy_ax.plot(epochs, [m.val_accuracy for m in history], **style)
        dot = {"color": color, "marker": "o", "markersize": 7, "markeredgecolor": "white", "zorder": 5}
        chosen = f"{title}: {best.val_accuracy:.2%}, epoch {best.epoch} chosen"
        accuracy_ax.plot([best.epoch], [best.val_accuracy], linestyle="none", label=chosen, **dot)
        # The first steep climb would flatten what one wants to compare.
        floor = min([floor, *(m.val_accuracy for m in history[len(history) // 2 :])])
    bottom = max(math.floor(floor * 20 - 0.2) / 20, 0.0)
    accuracy_ax.set_ylim(bottom, 1 + (1 - bottom) * 0.03)
    accuracy_ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    loss_ax.set_ylim(bottom=0)
    for ax, place in ((loss_ax, "upper right"), (accuracy_ax, "lower right")):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
        ax.legend(loc=place, frameon=False, fontsize=9, labelcolor=INK)
    return figure
