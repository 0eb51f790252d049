"""The load of the experts, as one evaluation found it."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.ticker import PercentFormatter

from moezoo.errors import InputError
from moezoo.eval import LayerLoad
from moezoo.viz.grid import layer_label
from moezoo.viz.style import INK, MUTED, Picture, expert_colors, new_figure, polish

NUMBERED = 10
"""Up to this many experts a band shows its expert's number."""


def shares_figure(routing: Sequence[LayerLoad], title: str = "Expert load") -> Picture:
    """One bar per MoE layer, the first on top, made of every expert's share of the tokens.

    Raises:
        InputError: The model has no MoE layer.
    """
    if not routing:
        raise InputError("shares_figure needs at least one MoE layer")
    figure = new_figure(8, 1.3 + 0.45 * len(routing))
    ax = figure.subplots()
    polish(ax, title, xlabel="share of the tokens", grid=False)
    for row, load in enumerate(routing):
        begin = 0.0
        for expert, (share, color) in enumerate(zip(load.share, expert_colors(load.num_experts), strict=True)):
            ax.barh(row, share, left=begin, color=color, edgecolor="white", linewidth=0.5, height=0.75)
            if load.num_experts <= NUMBERED and share > 0.05:
                text = f"{expert}: {share:.0%}"
                ax.text(begin + share / 2, row, text, ha="center", va="center", fontsize=8.5, color="white")
            begin += share
        dead = f", {len(load.dead_experts)} dead" if load.dead_experts else ""
        ax.text(1.01, row, f"entropy {load.load_entropy:.3f}{dead}", va="center", fontsize=8.5, color=MUTED)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.set_yticks(range(len(routing)), [layer_label(load.layer) for load in routing], color=INK)
    ax.invert_yaxis()
    figure.data = {"shares": {load.layer: load.share for load in routing}}
    return figure
