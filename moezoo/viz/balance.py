"""How even the load of the experts is, over layers and over time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from moezoo.errors import InputError
from moezoo.train.result import EpochMetrics
from moezoo.viz.grid import layer_label
from moezoo.viz.style import ALERT, INK, MUTED, RUNS, Picture, new_figure, polish

Rows = Sequence[tuple[int, Sequence[Mapping[str, Any]]]]
"""Of each moment its number, and what is said of each layer."""


def balance_figure(source: Sequence[EpochMetrics] | str | Path) -> Picture:
    """Entropy of the load of every layer over time, and how far from even the layers are in the end.

    Args:
        source: The epochs of a run, for the load over the validation images; or its ``steps.jsonl``, for the load of
            the training steps themselves.

    Returns:
        With ``data``: ``layers``, ``times`` (epochs or steps), ``entropy`` and ``max_violation`` (layers, times).

    Raises:
        InputError: There is no epoch or step that tells of MoE layers.
    """
    steps = isinstance(source, (str, Path))
    rows = _steps(Path(source)) if isinstance(source, (str, Path)) else _epochs(source)
    if not rows:
        raise InputError("balance_figure needs at least one epoch or step of a model with MoE layers")
    layers = list(dict.fromkeys(load["layer"] for _, loads in rows for load in loads))
    entropy = np.full((len(layers), len(rows)), np.nan)
    violation = entropy.copy()
    for column, (_, loads) in enumerate(rows):
        for load in loads:
            row = layers.index(load["layer"])
            entropy[row, column], violation[row, column] = load["load_entropy"], load["max_violation"]
    times = [time for time, _ in rows]
    figure = new_figure(10.5, 1.7 + 0.28 * len(layers))
    ax, bar_ax = figure.subplots(1, 2, sharey=True, width_ratios=[3, 1])
    what = "step" if steps else "epoch"
    polish(ax, "Load entropy, 1 = even", xlabel=what, grid=False)
    image = ax.imshow(
        entropy,
        aspect="auto",
        cmap="viridis",
        vmin=min(0.9, float(np.nanmin(entropy))),
        vmax=1,
        interpolation="nearest",
        extent=(0, len(times), len(layers) - 0.5, -0.5),
    )
    ax.spines[:].set_visible(False)
    ax.set_yticks(range(len(layers)), [layer_label(name) for name in layers], color=INK)
    # Steps need not be equally far apart: columns are moments, the labels say which.
    ax.xaxis.set_major_locator(MaxNLocator(min(len(times), 8), integer=True))
    places = [int(place) for place in ax.get_xticks() if 0 <= place < len(times)]
    ax.set_xticks([place + 0.5 for place in places], [str(times[place]) for place in places])
    bar = figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02)
    bar.ax.tick_params(labelsize=8, labelcolor=MUTED)
    bar.outline.set_visible(False)
    polish(bar_ax, "Busiest expert, last", xlabel="its load, 1 = even", grid=False)
    last = violation[:, -1] + 1
    bar_ax.barh(range(len(layers)), last, color=[ALERT if value > 2 else RUNS[0] for value in last], height=0.7)
    bar_ax.axvline(1, color=INK, linewidth=0.8, linestyle=(0, (3, 4)))
    bar_ax.tick_params(axis="y", length=0)
    figure.data = {"layers": layers, "times": times, "entropy": entropy, "max_violation": violation}
    return figure


def _epochs(history: Sequence[EpochMetrics]) -> Rows:
    return [
        (epoch.epoch, [{**vars(load), "max_violation": load.max_violation} for load in epoch.routing])
        for epoch in history
        if epoch.routing
    ]


def _steps(path: Path) -> Rows:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror or error}") from None
    rows = [json.loads(line) for line in lines]
    return [(row["step"], row["routing"]) for row in rows if row.get("routing")]
