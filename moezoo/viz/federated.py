"""Federated training: how the rounds went, against the baselines, and who had which images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.viz.grid import fitted
from moezoo.viz.style import INK, MUTED, RUNS, Picture, new_figure, polish

NAMES = {
    "federated": "federated, local experts",
    "fedavg": "all averaged",
    "local": "each client alone",
    "central": "one model, all images",
}
PANELS = {"everywhere": "on all images", "own": "on images like the client's own"}


def federated_figure(result: Mapping[str, Any]) -> Picture:
    """Accuracy on validation images after every round, mean over the clients in their range, and their images by class.

    Args:
        result: Of ``FederatedResult.to_dict()``, or the content of ``federated.json``.

    Returns:
        With ``data``: for each method ``everywhere`` and ``own``, (rounds, clients) accuracies, for ``federated`` also
        ``shared``, (rounds,) of the model without local experts, and ``class_counts``.

    Raises:
        InputError: It holds no method or no round.
    """
    methods = result.get("methods") or {}
    if not methods or not all(method["rounds"] for method in methods.values()):
        raise InputError("federated_figure needs the rounds of at least one method, as in federated.json")
    figure = new_figure(12.0, 3.9)
    axes = figure.subplots(1, 3, width_ratios=[1.0, 1.0, 0.9])
    for ax, (kind, title) in zip(axes, PANELS.items(), strict=False):
        polish(ax, title, xlabel="round", ylabel="validation accuracy" if kind == "everywhere" else "")
        for color, (name, method) in zip(RUNS, methods.items(), strict=False):
            values = _values(method["rounds"], kind)
            figure.data.setdefault(name, {})[kind] = values
            _draw(ax, values, color, NAMES.get(name, name))
            if kind == "everywhere" and name == "federated":
                shared = [np.nan if each["server"] is None else each["server"] for each in method["rounds"]]
                figure.data[name]["shared"] = np.array(shared, dtype=float)
                _draw_shared(ax, figure.data[name]["shared"], color)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8.5, labelcolor=INK)
    figure.data["class_counts"] = counts = np.asarray(result["class_counts"])
    _draw_counts(axes[2], counts, result.get("label_names") or range(counts.shape[1]))
    return figure


def _values(rounds: Sequence[Mapping[str, Any]], kind: str) -> np.ndarray:
    return np.array(
        [[np.nan if score[kind] is None else score[kind] for score in each["clients"]] for each in rounds], dtype=float
    )


def _draw(ax: Axes, values: np.ndarray, color: str, label: str) -> None:
    rounds = np.arange(1, len(values) + 1)
    known = ~np.isnan(values).all(1)
    rounds, values = rounds[known], values[known]
    if len(rounds):
        ax.fill_between(rounds, np.nanmin(values, 1), np.nanmax(values, 1), color=color, alpha=0.13, linewidth=0)
        ax.plot(rounds, np.nanmean(values, 1), color=color, linewidth=2, marker="o", markersize=3.5, label=label)


def _draw_shared(ax: Axes, values: np.ndarray, color: str) -> None:
    if not np.isnan(values).all():
        rounds = np.arange(1, len(values) + 1)
        ax.plot(rounds, values, color=color, linewidth=1.6, linestyle="--", label="federated, the shared model")


def _draw_counts(ax: Axes, counts: np.ndarray, names: Sequence[Any] | range) -> None:
    polish(ax, "training images", xlabel="class", ylabel="client", grid=False)
    ax.imshow(counts, cmap="Blues", aspect="auto", vmin=0)
    few = counts.shape[1] <= 12
    ax.set_xticks(range(counts.shape[1]) if few else [])
    if few:
        ax.set_xticklabels([fitted(str(name), 8, 1) for name in names])
    ax.set_yticks(range(len(counts)))
    if counts.size <= 120:
        high = counts.max() or 1
        for client, row in enumerate(counts):
            for label, number in enumerate(row):
                color = "white" if number > 0.6 * high else MUTED
                ax.text(label, client, str(number), ha="center", va="center", fontsize=7.5, color=color)
