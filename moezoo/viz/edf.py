"""How good the models of a design space are: the distribution of their errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from moezoo.errors import InputError
from moezoo.viz.numbers import finite_array
from moezoo.viz.style import INK, Picture, expert_colors, new_figure, polish


def edf_figure(
    errors: Mapping[str, Sequence[float]], *, title: str = "Errors of models drawn from each space"
) -> Picture:
    """The error EDF of each design space: the share of its sampled models whose error is below a value.

    A curve further to the left is the better space (Radosavovic et al. 2020, "Designing Network Design Spaces"). The
    legend says how many models each is of, and their least and mean error.

    Args:
        errors: Name of a space to the errors of its models, as fractions.
        title: Above the picture.

    Returns:
        With ``data``: name to ``errors`` (ascending), ``share`` (of models with at most that error), ``min`` and
        ``mean``.

    Raises:
        InputError: There is no space, one without a model, or an error that is NaN or infinite.
    """
    if not errors:
        raise InputError("edf_figure needs at least one design space")
    figure = new_figure(6.4, 4.4)
    ax = figure.subplots()
    polish(ax, title, xlabel="error", ylabel="share of the models")
    found = {name: np.sort(finite_array(f"errors[{name!r}]", own, dims=1)) for name, own in errors.items()}
    low, high = min(own[0] for own in found.values()), max(own[-1] for own in found.values())
    room = max(float(high - low), 0.01)
    for (name, own), color in zip(found.items(), expert_colors(len(found)), strict=True):
        share = np.arange(1, len(own) + 1) / len(own)
        least, mean = float(own[0]), float(own.mean())
        label = f"{name} ({len(own)} models)\nmin {least:.1%}, mean {mean:.1%}"
        # From the axis up, and on to the edge: the function is defined everywhere.
        x, y = [low - room, *own, high + room], [0.0, *share, 1.0]
        ax.step(x, y, where="post", color=color, linewidth=2, label=label)
        figure.data[name] = {"errors": own.tolist(), "share": share.tolist(), "min": least, "mean": mean}
    ax.set_xlim(low - 0.04 * room, high + 0.04 * room)
    ax.set_ylim(0, 1.02)
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0 if room > 0.05 else 1))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="lower right", fontsize=8.5, labelcolor=INK, frameon=True, framealpha=0.85, edgecolor="white")
    return figure
