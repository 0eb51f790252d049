"""Accuracy and routing under corruptions of rising strength."""

from __future__ import annotations

from matplotlib.ticker import MaxNLocator, PercentFormatter

from moezoo.errors import InputError
from moezoo.eval import Robustness
from moezoo.viz.style import INK, RUNS, Picture, new_figure, polish


def robustness_figure(result: Robustness) -> Picture:
    """Accuracy over the severity, a line per kind of corruption; beside it how many tokens changed their first expert.

    Severity 0 is the clean image. Without MoE layers there is only the first picture.

    Raises:
        InputError: There is no corruption.
    """
    if not result.corrupted:
        raise InputError("robustness_figure needs at least one corruption")
    routed = any(each.rerouted for each in result.corrupted)
    figure = new_figure(10 if routed else 5, 3.9)
    axes = figure.subplots(1, 2 if routed else 1, squeeze=False)[0]
    polish(axes[0], "Accuracy", xlabel="severity")
    if routed:
        polish(axes[1], "Tokens at another first expert", xlabel="severity")
    for index, kind in enumerate(dict.fromkeys(each.kind for each in result.corrupted)):
        cases = sorted((each for each in result.corrupted if each.kind == kind), key=lambda each: each.severity)
        severities = [0, *(each.severity for each in cases)]
        style = {"color": RUNS[index % len(RUNS)], "linewidth": 2, "marker": "o", "label": kind}
        axes[0].plot(severities, [result.clean_top1, *(each.top1 for each in cases)], **style)
        if routed:
            axes[1].plot(severities, [0, *(each.mean_rerouted or 0 for each in cases)], **style)
    for ax in axes:
        ax.set_ylim(0, 1.03)
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    figure.data = {"clean_top1": result.clean_top1, "corrupted": result.corrupted}
    return figure
