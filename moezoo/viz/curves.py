"""Training curves of one run, or of several side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.train.result import USES, EpochMetrics
from moezoo.viz.front import readable
from moezoo.viz.style import INK, RUNS, Picture, new_figure, polish

CROSS_ENTROPY = ("accuracy", "token_accuracy")
"""Scores whose loss is a plain cross-entropy; others are trained by a sum of several."""


def training_figure(runs: Mapping[str, Sequence[EpochMetrics]]) -> Picture:
    """Training loss and validation score over the epochs, the chosen epoch of each run marked; below them, of models
    with a big and a small expert, the share of the tokens that went to the big one and the FLOPs that an image took.

    Args:
        runs: Title of a run to its epochs: ``{"MoE": result.history, "dense twin": dense.history}``.

    Returns:
        With ``data``: title to ``epochs``, ``loss``, ``score``, ``score_name`` and ``chosen``; where known, to
        ``routing_ratio``, ``val_routing_ratio``, ``flops_per_image`` and ``val_flops_per_image``.

    Raises:
        InputError: There is no run, a run has no epoch, or the runs were judged by different scores.
    """
    if not runs or not all(runs.values()):
        raise InputError("training_figure needs at least one run of at least one epoch")
    names = {epoch.score_name for history in runs.values() for epoch in history}
    if len(names) > 1:
        raise InputError(f"the runs were judged by {', '.join(sorted(names))}: draw those of one score together")
    name = names.pop()
    uses = any(getattr(m, key) is not None for history in runs.values() for m in history for key in USES)
    figure = new_figure(10, 6.9 if uses else 3.9)
    (loss_ax, score_ax), *use_axes = figure.subplots(1 + uses, 2, squeeze=False)
    polish(loss_ax, "Training loss", xlabel="epoch", ylabel="cross-entropy, nats" if name in CROSS_ENTROPY else "loss")
    on_test = any(epoch.judged_on == "test" for history in runs.values() for epoch in history)
    part = "Test" if on_test else "Validation"
    polish(score_ax, f"{part} {name.replace('_', ' ')}", xlabel="epoch")
    floor = 1.0
    for index, (title, history) in enumerate(runs.items()):
        color = RUNS[index % len(RUNS)]
        best = max(history, key=lambda m: m.key)
        epochs, scores = [m.epoch for m in history], [m.score for m in history]
        style = {"color": color, "linewidth": 2, "solid_capstyle": "round"}
        loss_ax.plot(epochs, [m.loss for m in history], label=title, **style)
        score_ax.plot(epochs, scores, **style)
        dot = {"color": color, "marker": "o", "markersize": 7, "markeredgecolor": "white", "zorder": 5}
        # Without validation images the last epoch is kept; the best one would be chosen by the test.
        kept = f"best at {best.epoch}, last {scores[-1]:.2%}" if on_test else f"epoch {best.epoch} chosen"
        chosen = f"{title}: {best.score:.2%}, {kept}"
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
    if use_axes:
        _draw_uses(use_axes[0][0], use_axes[0][1], runs)
        for title, history in runs.items():
            known = {key: [getattr(m, key) for m in history] for key in USES}
            figure.data[title] |= {key: each for key, each in known.items() if any(v is not None for v in each)}
    for ax, place in ((loss_ax, "upper right"), (score_ax, "lower right")):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.02)
        ax.legend(loc=place, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _draw_uses(ratio_ax: Axes, flops_ax: Axes, runs: Mapping[str, Sequence[EpochMetrics]]) -> None:
    """What was spent in training (lines) and in validation (dotted)."""
    polish(ratio_ax, "Share routed to the big expert", xlabel="epoch")
    polish(flops_ax, "Executed FLOPs per image", xlabel="epoch")
    for ax, key in ((ratio_ax, "routing_ratio"), (flops_ax, "flops_per_image")):
        for index, (title, history) in enumerate(runs.items()):
            for name, style in ((key, "-"), (f"val_{key}", ":")):
                known = [(m.epoch, getattr(m, name)) for m in history if getattr(m, name) is not None]
                if not known:
                    continue
                label = f"{title}{', validation' if style == ':' else ''}: {_written(key, known[-1][1])}"
                color = RUNS[index % len(RUNS)]
                mark = "o" if len(known) == 1 else ""
                ax.plot(*zip(*known, strict=True), color=color, linewidth=2, linestyle=style, marker=mark, label=label)
        ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _, key=key: _written(key, value)))
        ax.margins(x=0.02)
        ax.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    ratio_ax.set_ylim(0, 1.03)


def _written(key: str, value: float) -> str:
    return f"{value:.0%}" if key == "routing_ratio" else readable(value)
