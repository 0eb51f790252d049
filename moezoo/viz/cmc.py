"""How soon queries find the identity they look for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.moe.checks import check_int
from moezoo.viz.numbers import finite_array
from moezoo.viz.style import INK, Picture, expert_colors, new_figure, polish


def cmc_figure(reports: Mapping[str, Any], *, max_rank: int = 20, title: str = "Queries answered by rank") -> Picture:
    """A curve per report: the share of the queries with a right match among the first so many (CMC).

    Args:
        reports: Name to a report of :func:`moezoo.eval.evaluate_reid`, or to a mapping as of
            :func:`moezoo.eval.reid_metrics`: with ``cmc`` (index 0 is Rank-1) and ``mAP``, as fractions.
        max_rank: The last rank drawn.
        title: Above the picture.

    Returns:
        With ``data``: name to ``cmc`` as drawn and ``mAP``.

    Raises:
        ConfigError: ``max_rank`` is below 1.
        InputError: There is no report, or one whose numbers are missing or no fractions.
    """
    check_int("max_rank", max_rank, low=1)
    if not reports:
        raise InputError("cmc_figure needs at least one report")
    figure = new_figure(6.4, 4.2)
    ax = figure.subplots()
    polish(ax, title, xlabel="rank", ylabel="queries with a match")
    lowest = 1.0
    for (name, report), color in zip(reports.items(), expert_colors(len(reports)), strict=True):
        cmc = finite_array(f"cmc of {name!r}", _of(report, "cmc", name), dims=1)[:max_rank]
        mean = float(finite_array(f"mAP of {name!r}", _of(report, "mAP", name), dims=0))
        if not 0 <= min(cmc.min(), mean) <= max(cmc.max(), mean) <= 1:
            raise InputError(f"{name!r}: cmc and mAP must be fractions from 0 to 1, got up to {max(cmc.max(), mean):g}")
        ranks = range(1, len(cmc) + 1)
        label = f"{name}\nmAP {mean:.1%}, Rank-1 {cmc[0]:.1%}"
        ax.plot(ranks, cmc, color=color, linewidth=2, marker="o", markersize=3.5, label=label)
        lowest = min(lowest, float(cmc[0]))
        figure.data[name] = {"cmc": cmc.tolist(), "mAP": mean}
    ax.set_ylim(max(lowest - 0.12 * (1.02 - lowest), 0), 1.01)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="lower right", fontsize=8.5, labelcolor=INK, framealpha=0.85, edgecolor="white")
    return figure


def _of(report: Any, key: str, name: str) -> Any:
    found = report.get(key) if isinstance(report, Mapping) else getattr(report, key, None)
    if found is None:
        raise InputError(f"the report {name!r} has no {key}")
    return found
