"""What experts are used for: how often, over time, and for which content."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moezoo.eval.explanation import ActivationPatterns, ContentRelation
from moezoo.viz.style import INK, MUTED, Picture, expert_colors, new_figure, polish

PANELS, NAMED, NUMBERED = 4, 24, 12
"""Contents that are drawn, those that tell most; values up to which each is named, and its points are written."""


def activation_patterns_figure(patterns: ActivationPatterns, *, title: str = "Use of the experts") -> Picture:
    """Above, how often each expert is used and how that changed; below, for what content: a panel per property, with
    the points that the weights of its values' samples lie above or below the mean.

    Args:
        patterns: Of :func:`moezoo.eval.analyze_expert_activation_patterns`.
        title: Above the picture.

    Returns:
        With ``data``: ``frequency``, ``mean_weight`` (moments x experts) and ``information``: content to bits above
        chance.
    """
    shown = sorted(patterns.content, key=lambda each: -each.excess)[:PANELS]
    figure = new_figure(10.5, 3.4 if not shown else 6.6)
    above, *below = figure.subfigures(1 if not shown else 2, 1, squeeze=False)[:, 0]
    changes = len(patterns.mean_weight) > 1
    use, *time = above.subplots(1, 1 + changes, squeeze=False, width_ratios=[1, 1.5][: 1 + changes])[0]
    _draw_use(use, patterns, title)
    if changes:
        _draw_time(time[0], patterns)
    if shown:
        panels = below[0].subplots(1, len(shown), squeeze=False)[0]
        for ax, relation in zip(panels, shown, strict=True):
            _draw_content(ax, relation, patterns)
    figure.data = {
        "frequency": list(patterns.frequency),
        "mean_weight": np.array(patterns.mean_weight),
        "information": {each.name: each.excess for each in patterns.content},
    }
    return figure


def _draw_use(ax: Axes, patterns: ActivationPatterns, title: str) -> None:
    polish(ax, title)
    bars = {
        "mean weight": patterns.mean_weight[-1],
        f"weight above {patterns.threshold:g}": patterns.activation[-1],
        "largest weight": patterns.first[-1],
    }
    places = np.arange(len(patterns.experts))
    for index, ((name, values), shade) in enumerate(zip(bars.items(), ("#0072b2", "#56b4e9", "#e69f00"), strict=True)):
        ax.bar(places + (index - 1) * 0.27, values, 0.25, color=shade, label=name)
    ax.set_xticks(places, patterns.experts, rotation=0 if len(places) <= 4 else 45)
    ax.tick_params(axis="x", length=0, labelcolor=INK)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_ylim(0, 1.35 * max(max(values) for values in bars.values()))  # room for the legend
    ax.set_yticks([tick for tick in ax.get_yticks() if 0 <= tick <= 1])
    ax.legend(loc="upper left", ncols=3, fontsize=8, labelcolor=INK, frameon=False)


def _draw_time(ax: Axes, patterns: ActivationPatterns) -> None:
    polish(ax, "Mean weight over time", xlabel="moment")
    weights = np.array(patterns.mean_weight)
    for expert, color in enumerate(expert_colors(len(patterns.experts))):
        moments = range(1, len(weights) + 1)
        label = patterns.experts[expert]
        ax.plot(moments, weights[:, expert], color=color, linewidth=2, marker="o", markersize=4, label=label)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_ylim(bottom=0)
    ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=8, labelcolor=INK, frameon=False)
    if patterns.switched:
        ax.set_title(f"last step: {patterns.switched[-1]:.0%} switched", loc="right", fontsize=8.5, color=MUTED)


def _draw_content(ax: Axes, relation: ContentRelation, patterns: ActivationPatterns) -> None:
    """By how much the weights of each value's samples lie above (green) or below (purple) the mean."""
    off = np.array(relation.share) - np.array(patterns.mean_weight[-1])
    most = max(float(np.abs(off).max()), 0.01)  # a difference of less is shown as little
    ax.imshow(off, cmap="PRGn", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
    told = f"tells {relation.excess:.2f} of {relation.entropy:.2f} bits,\nabove {relation.chance:.2f} by chance"
    polish(ax, relation.name, xlabel=told, grid=False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, labelcolor=INK, labelsize=8)
    ax.set_xticks(range(len(patterns.experts)), patterns.experts, rotation=0 if len(patterns.experts) <= 3 else 90)
    if len(relation.values) <= NAMED:
        ax.set_yticks(range(len(relation.values)), relation.values)
    else:
        ax.set_yticks([])
    if len(relation.values) <= NUMBERED:
        for (row, column), value in np.ndenumerate(off):
            color, points = "white" if abs(value) > 0.7 * most else INK, round(100 * value)
            ax.text(column, row, f"{points:+d}" if points else "0", ha="center", va="center", fontsize=8, color=color)
