"""Accuracy against the compute that it took."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.viz.style import INK, MUTED, RUNS, Picture, new_figure, polish

MARKS = "sD^vPX*<>p"
"""One per single model: shapes differ where colours come again."""
SINGLES = ("#d55e00", "#009e73", "#cc3d7a", "#8c6bb1", "#8a6d00", "#4d4d4d")


class FrontPoint(NamedTuple):
    """One model at one setting."""

    flops: float
    """Executed per image."""
    accuracy: float
    setting: Hashable = None
    """What was turned to get here, a budget for example. Points of a curve with the same setting are seeds, unless none
    has a setting: then they are different models."""


class Spread(NamedTuple):
    """Seeds together: means, and the worst and the best accuracy."""

    setting: Hashable
    flops: float
    accuracy: float
    lowest: float
    highest: float
    seeds: int


def front_figure(
    curves: Mapping[str, Sequence[Any]],
    points: Mapping[str, Sequence[Any]] | None = None,
    *,
    reference: str | None = None,
    log: bool = True,
    title: str = "Accuracy against compute",
) -> Picture:
    """A line per model that can be turned, a mark per model that cannot; seeds as a band from the worst to the best.

    Args:
        curves: Name to :class:`FrontPoint` objects, or others with its attributes.
        points: Name to the seeds of a model without a dial; their settings do not matter.
        reference: One of these names: a dashed line goes at its accuracy, of a curve the best.
        log: FLOPs on a logarithmic axis.
        title: Above the picture.

    Returns:
        With ``data["curves"]`` and ``data["points"]``: name to a list of :class:`Spread` by rising FLOPs;
        ``data["reference"]``: the accuracy of the dashed line.

    Raises:
        InputError: There is nothing to draw, a line or mark has no point, a number is none that can be drawn, or
            ``reference`` is not among the names.
    """
    lines = {name: _by_setting(name, each) for name, each in curves.items()}
    marks = {name: [_together(name, None, each)] for name, each in (points or {}).items()}
    every = {**lines, **marks}
    if not every:
        raise InputError("front_figure needs at least one curve or point")
    if reference is not None and reference not in every:
        raise InputError(f"reference={reference!r} is none of {', '.join(map(repr, every))}")
    figure = new_figure(9.6, 4.7)
    ax = figure.subplots()
    polish(ax, title, xlabel="executed FLOPs per image", ylabel="accuracy")
    level = max(each.accuracy for each in every[reference]) if reference is not None else None
    if level is not None:
        ax.axhline(level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
    for index, (name, found) in enumerate(lines.items()):
        _draw_line(ax, name, found, RUNS[index % len(RUNS)], below=index % 2 == 0)
    for index, (name, (single,)) in enumerate(marks.items()):
        _draw_mark(ax, name, single, SINGLES[index % len(SINGLES)], MARKS[index % len(MARKS)])
    _scale(ax, [each for found in every.values() for each in found], log)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9, labelcolor=INK, labelspacing=0.9)
    figure.data = {"curves": lines, "points": marks, "reference": level}
    return figure


def readable(flops: float) -> str:
    """``12.3 M`` of 12,300,000."""
    size, unit = next(((s, u) for s, u in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")) if flops >= s), (1, ""))
    return f"{flops / size:.3g} {unit}".strip()


def _by_setting(name: str, points: Sequence[Any]) -> list[Spread]:
    groups: dict[Hashable, list[Any]] = {}
    told = any(point.setting is not None for point in points)
    for number, point in enumerate(points):
        groups.setdefault(point.setting if told else number, []).append(point)
    if not groups:
        raise InputError(f"{name!r} has no point to draw")
    spreads = [_together(name, own[0].setting, own) for own in groups.values()]
    return sorted(spreads, key=lambda each: each.flops)


def _together(name: str, setting: Hashable, seeds: Sequence[Any]) -> Spread:
    if not seeds:
        raise InputError(f"{name!r} has no point to draw")
    flops, accuracies = [float(p.flops) for p in seeds], [float(p.accuracy) for p in seeds]
    if not np.isfinite([*flops, *accuracies]).all() or min(flops) <= 0:
        raise InputError(f"{name!r}: FLOPs must be above 0 and accuracies finite, got {flops} and {accuracies}")
    mean = float(np.mean(accuracies))
    return Spread(setting, float(np.mean(flops)), mean, min(accuracies), max(accuracies), len(seeds))


def _draw_line(ax: Axes, name: str, found: Sequence[Spread], color: str, *, below: bool) -> None:
    flops = [each.flops for each in found]
    if any(each.seeds > 1 for each in found):
        ax.fill_between(
            flops, [e.lowest for e in found], [e.highest for e in found], color=color, alpha=0.18, linewidth=0
        )
    label = name + _seeds(found)
    ax.plot(flops, [e.accuracy for e in found], color=color, linewidth=2, marker="o", markersize=5, label=label)
    last = 0.0
    for each in found:
        if isinstance(each.setting, (int, float)) and each.flops > 1.12 * last:  # nearer numbers would overlap
            last = each.flops
            ax.annotate(
                f"{each.setting:.3g}",
                (each.flops, each.accuracy),
                xytext=(4, -7) if below else (-4, 7),  # beside a rising line, not on it
                textcoords="offset points",
                ha="left" if below else "right",
                va="center",
                fontsize=7.5,
                color=color,
            )


def _draw_mark(ax: Axes, name: str, found: Spread, color: str, mark: str) -> None:
    around = [[found.accuracy - found.lowest], [found.highest - found.accuracy]]
    ax.errorbar(
        found.flops,
        found.accuracy,
        yerr=around if found.seeds > 1 else None,
        color=color,
        marker=mark,
        markersize=9,
        markeredgecolor="white",
        linestyle="none",
        elinewidth=1.5,
        zorder=4,
        label=f"{name}{_seeds([found])}\n{found.accuracy:.1%} at {readable(found.flops)}",
    )


def _seeds(found: Sequence[Spread]) -> str:
    most = max(each.seeds for each in found)
    return f", {most} seeds" if most > 1 else ""


def _scale(ax: Axes, found: Sequence[Spread], log: bool) -> None:
    low, high = min(e.flops for e in found), max(e.flops for e in found)
    if log:
        ax.set_xscale("log")
        # More than one number of every power of ten: a front often spans less than one.
        ax.xaxis.set_major_locator(
            LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if high < 8 * low else (1.0, 2.0, 5.0))
        )
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(low / 1.12, high * 1.12)
    else:
        ax.set_xlim(0, high * 1.06)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: readable(value)))
    worst, best = min(e.lowest for e in found), max(e.highest for e in found)
    room = max(best - worst, 0.01)
    ax.set_ylim(max(worst - 0.1 * room, 0.0), best + 0.08 * room)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if room > 0.05 else 1))
