"""What becomes of a model when one thing after the other is changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.viz.front import readable
from moezoo.viz.grid import fitted
from moezoo.viz.style import ALERT, INK, MUTED, RUNS, Picture, new_figure, polish

PER_BAND = 4
"""Most factors side by side."""
COMPUTE = {"flops_per_image": "FLOPs per image", "routing_ratio": "share routed"}
"""What is drawn under the accuracy: the first of these that is known."""


def ablation_figure(
    rows: Sequence[Mapping[str, Any]], *, base: Mapping[str, Any] | None = None, metric: str = "accuracy"
) -> Picture:
    """A column per factor: accuracy, and below it the compute, over the factor's values.

    Numbers lie on a line, words side by side; seeds are pale dots around their mean.

    Args:
        rows: With ``factor``, ``value`` and ``accuracy``, and where known ``flops_per_image`` or ``routing_ratio``;
            other keys do not matter. Rows of the same factor and value are seeds.
        base: Factor to the value that it has while others are tried; it is circled.
        metric: What ``accuracy`` is.

    Returns:
        With ``data``: factor to ``values``, ``seeds`` (the accuracies of each), ``accuracy`` (their means), the compute
        under its own name (means, NaN where unknown) and ``base`` (the place of the base value, or ``None``).

    Raises:
        InputError: There is no row, or one without a factor, value or accuracy.
    """
    if not rows:
        raise InputError("ablation_figure needs at least one row")
    for row in rows:
        if missing := [key for key in ("factor", "value", "accuracy") if row.get(key) is None]:
            raise InputError(f"a row of an ablation must have {', '.join(missing)}, got {dict(row)}")
    below = next((key for key in COMPUTE if any(row.get(key) is not None for row in rows)), None)
    factors = list(dict.fromkeys(str(row["factor"]) for row in rows))
    bands = -(-len(factors) // PER_BAND)
    across, panels = -(-len(factors) // bands), 1 if below is None else 2
    figure = new_figure(max(3.0 * across, 4.4), (2.6 if below is None else 3.9) * bands)
    axes = figure.subplots(panels * bands, across, squeeze=False, height_ratios=[1.5, 1.0][:panels] * bands)
    for index, ax in enumerate(axes[::panels].flatten()):
        column = [ax] if below is None else [ax, axes[index // across * panels + 1, index % across]]
        if index >= len(factors):
            for each in column:
                each.set_visible(False)
            continue
        own = [row for row in rows if str(row["factor"]) == factors[index]]
        told = _told(own, below, (base or {}).get(factors[index]))
        first = index % across == 0
        polish(ax, factors[index].replace("_", " "), ylabel=metric if first else "")
        _draw(ax, told, told["accuracy"], told["seeds"])
        _scale_accuracy(ax, rows)
        if below is not None:
            polish(column[1], ylabel=COMPUTE[below] if first else "")
            _draw(column[1], told, told[below])
            _scale_compute(column[1], rows, below)
            ax.tick_params(labelbottom=False)
        _label_values(column, told["values"])
        figure.data[factors[index]] = told
    if any(told["base"] is not None for told in figure.data.values()):
        figure.suptitle("circled: the value while other factors are tried", fontsize=9, color=MUTED)
    return figure


def _told(rows: Sequence[Mapping[str, Any]], below: str | None, base: Any) -> dict[str, Any]:
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(_number(row["value"]), []).append(row)
    if all(isinstance(value, float) for value in groups):
        groups = dict(sorted(groups.items()))
    values = list(groups)
    told: dict[str, Any] = {
        "values": values,
        "seeds": [[float(row["accuracy"]) for row in own] for own in groups.values()],
        "base": values.index(_number(base)) if base is not None and _number(base) in values else None,
    }
    told["accuracy"] = [float(np.mean(own)) for own in told["seeds"]]
    if below is not None:
        known = [[float(row[below]) for row in own if row.get(below) is not None] for own in groups.values()]
        told[below] = [float(np.mean(own)) if own else float("nan") for own in known]
    return told


def _number(value: Any) -> float | str:
    """A number, however it is written; anything else as text."""
    try:
        return str(value) if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return str(value)


def _draw(ax: Axes, told: Mapping[str, Any], means: Sequence[float], seeds: Sequence[Sequence[float]] = ()) -> None:
    places, numbers = _places(told["values"])
    for place, own in zip(places, seeds, strict=False):
        if len(own) > 1:
            ax.plot([place] * len(own), own, color=RUNS[0], marker="o", markersize=4, alpha=0.35, linestyle="none")
    ax.plot(
        places,
        means,
        color=RUNS[0],
        marker="o",
        markersize=6,
        markeredgecolor="white",
        linewidth=2,
        linestyle="-" if numbers else "none",
    )
    if told["base"] is not None:
        here = [places[told["base"]]], [means[told["base"]]]
        ax.plot(*here, marker="o", markersize=12, markerfacecolor="none", markeredgecolor=ALERT, markeredgewidth=1.6)
    if numbers and 0 < 8 * min(places) <= max(places) and max(places) > 1:  # shares lie on a straight scale
        ax.set_xscale("log")
    else:
        ax.margins(x=0.1)
    if not numbers:
        ax.set_xlim(-0.6, len(places) - 0.4)


def _places(values: Sequence[float | str]) -> tuple[list[float], bool]:
    """Where values lie, and whether they are numbers."""
    if all(isinstance(value, float) for value in values):
        return [float(value) for value in values], True
    return [float(place) for place in range(len(values))], False


def _label_values(column: Sequence[Axes], values: Sequence[float | str]) -> None:
    places, numbers = _places(values)
    names = [f"{value:g}" if numbers else fitted(_text(value), 10, 3) for value in values]
    step = max(1, -(-len(places) // 7)) if numbers else 1
    for ax in column:
        ax.xaxis.set_major_locator(FixedLocator(places[::step]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FixedFormatter(names[::step]))
    tilted = not numbers and (len(names) > 4 or max(map(len, names)) > 10)
    column[-1].tick_params(axis="x", labelcolor=INK, labelrotation=90 if tilted else 0)


def _text(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, float) else value.replace("_", " ")


def _scale_accuracy(ax: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """The same for every factor, so that their effects can be compared."""
    accuracies = [float(row["accuracy"]) for row in rows]
    low, high = min(accuracies), max(accuracies)
    room = max(high - low, 0.02)
    ax.set_ylim(max(low - 0.12 * room, 0), high + 0.12 * room)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0 if room > 0.06 else 1))


def _scale_compute(ax: Axes, rows: Sequence[Mapping[str, Any]], below: str) -> None:
    ax.set_ylim(0, 1.12 * max(float(row[below]) for row in rows if row.get(below) is not None))
    share = below == "routing_ratio"
    ax.yaxis.set_major_formatter(
        PercentFormatter(1, decimals=0) if share else FuncFormatter(lambda value, _: readable(value))
    )
