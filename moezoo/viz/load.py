"""The load of the experts over time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.eval import LayerLoad
from moezoo.train.result import EpochMetrics
from moezoo.viz.grid import layer_label
from moezoo.viz.style import INK, MUTED, Picture, expert_colors, new_figure, polish

BANDS = 10
"""Up to this many experts are drawn as bands; more as rows of a heat map."""


def load_figure(history: Sequence[EpochMetrics]) -> Picture:
    """Every expert's share of the tokens over the epochs, one panel per MoE layer.

    An even load is bands of equal height; a vanishing band is a dying expert.

    Raises:
        InputError: There is no epoch, or the model has no MoE layer.
    """
    if not history or not history[0].routing:
        raise InputError("load_figure needs at least one epoch of a model with MoE layers")
    layers = [[epoch.routing[i] for epoch in history] for i in range(len(history[0].routing))]
    columns = min(len(layers), 3)
    rows = -(-len(layers) // columns)
    figure = new_figure(max(5.4 * columns, 6.4), 3.7 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    epochs = [m.epoch for m in history]
    for ax, loads in zip(axes, layers, strict=False):
        (_bands if loads[0].num_experts <= BANDS else _heat_map)(ax, epochs, loads)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        last = loads[-1]
        dead = f", {len(last.dead_experts)} dead" if last.dead_experts else ""
        bands = last.num_experts <= BANDS
        label = "share of the tokens, dashed: even" if bands else "expert"
        polish(ax, layer_label(last.layer), xlabel="epoch", ylabel=label, grid=False)
        ax.set_title(f"load entropy {last.load_entropy:.3f}{dead}", loc="right", fontsize=9, color=MUTED, pad=8)
    for ax in axes[len(layers) :]:
        ax.set_visible(False)
    figure.data = {
        "epochs": epochs,
        "shares": {loads[0].layer: np.array([load.share for load in loads]) for loads in layers},
    }
    return figure


def _bands(ax: Axes, epochs: Sequence[int], loads: Sequence[LayerLoad]) -> None:
    shares = np.array([load.share for load in loads])
    if len(epochs) == 1:  # one epoch has no extent of its own
        epochs, shares = [epochs[0], epochs[0] + 1], np.repeat(shares, 2, axis=0)
    count = shares.shape[1]
    ax.stackplot(epochs, shares.T, colors=expert_colors(count), edgecolor="white", linewidth=0.8)
    for i in range(1, count):
        ax.axhline(i / count, color=INK, linewidth=0.8, linestyle=(0, (3, 4)), alpha=0.55)
    ends = np.cumsum(shares[-1])
    for i, (end, share) in enumerate(zip(ends, shares[-1], strict=True)):
        if share > 0.03:
            ax.annotate(
                f"expert {i}  {share:.0%}",
                (1.015, end - share / 2),
                xycoords="axes fraction",
                va="center",
                fontsize=9,
                color=INK,
                annotation_clip=False,
            )
    ax.set_xlim(epochs[0], epochs[-1])
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _heat_map(ax: Axes, epochs: Sequence[int], loads: Sequence[LayerLoad]) -> None:
    shares = np.array([load.share for load in loads]).T
    even = 1 / shares.shape[0]
    image = ax.imshow(
        shares / even,
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=max(2.0, float(shares.max() / even)),
        origin="lower",
        interpolation="nearest",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, -0.5, shares.shape[0] - 0.5),
    )
    bar = ax.figure.colorbar(image, ax=ax, fraction=0.05, pad=0.02)
    bar.set_label("load, 1 = even", fontsize=9, color=MUTED)
    bar.ax.tick_params(labelsize=8, labelcolor=MUTED)
    bar.outline.set_visible(False)
