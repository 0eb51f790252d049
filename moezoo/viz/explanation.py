"""Why a model decided as it did: which spectrum, region and expert."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter
from torch import Tensor

from moezoo.errors import InputError
from moezoo.eval.explanation import Case, Explanation
from moezoo.moe.checks import check_int
from moezoo.viz.decisions import show_box
from moezoo.viz.grid import layer_label
from moezoo.viz.heat import show_heat
from moezoo.viz.style import ALERT, INK, MUTED, RUNS, Picture, new_figure, polish, show_image, to_arrays

BARS = 8
"""Most experts that are drawn, those of the largest effect."""


def explanation_figure(explanation: Explanation, images: Tensor, *, case: int = 0) -> Picture:
    """One decision: each spectrum with what counts in it, what spectra and experts do, and how far that can be trusted.

    Args:
        explanation: Of :func:`moezoo.eval.explain_decision`.
        images: (B, C, H, W) or (B, M, C, H, W) pixels in [0, 1] of the images that were explained.
        case: Which of them.

    Returns:
        With ``data``: ``saliency`` (M, rows, columns), ``region`` (its box, or ``None``), ``modalities`` and
        ``experts`` (label to effect, as drawn) and ``faithfulness``.

    Raises:
        ConfigError: There is no such case.
        InputError: These are not the images.
    """
    check_int("case", case, low=0, high=len(explanation) - 1)
    told, stacked = explanation[case], images.unsqueeze(1) if images.dim() == 4 else images
    spectra = len(told.modalities)
    if stacked.dim() != 5 or len(stacked) != len(explanation) or stacked.shape[1] != spectra:
        raise InputError(
            f"images must be the {len(explanation)} that were explained, in {spectra} spectra, got "
            f"{tuple(images.shape)}"
        )
    pixels, saliency = to_arrays(stacked[case]), np.array(told.saliency)
    tall = pixels.shape[1] / pixels.shape[2]
    figure = new_figure(9.6, min(max(9.6 / (2 * max(spectra, 2)) * tall, 2.2), 4.2) + 3.6)
    above, below = figure.subfigures(2, 1, height_ratios=[1.1, 1], squeeze=False)[:, 0]
    _draw_images(above.subplots(1, 2 * spectra, squeeze=False)[0], told, pixels, saliency)
    above.suptitle(textwrap.fill(told.decision, 110), fontsize=11, fontweight="bold", color=INK)
    experts = _experts(told)
    modalities = {each.name: each.effect for each in told.modalities if each.present}
    lost = f"{told.unit} lost without"
    panels = [name for name, there in (("m", spectra > 1), ("e", bool(experts)), ("c", True)) if there]
    axes = dict(zip(panels, below.subplots(1, len(panels), squeeze=False)[0], strict=True))
    if "m" in axes:
        _draw_bars(axes["m"], modalities, f"{lost} a spectrum", told.modality.name)
    if "e" in axes:
        _draw_bars(axes["e"], experts, f"{lost} an expert", next(iter(experts)))
    _draw_curves(axes["c"], told)
    figure.data = {
        "saliency": saliency,
        "region": None if told.region is None else told.region.box,
        "modalities": modalities,
        "experts": experts,
        "faithfulness": told.faithfulness,
    }
    return figure


def _draw_images(axes: Sequence[Axes], told: Case, pixels: np.ndarray, saliency: np.ndarray) -> None:
    highest = max(float(saliency.max()), 1e-12)
    for m, part in enumerate(told.modalities):
        plain, heat = axes[2 * m], axes[2 * m + 1]
        show_image(plain, pixels[m])
        show_heat(heat, pixels[m], np.maximum(saliency[m], 0), highest)
        for ax in (plain, heat):
            ax.set_xticks([])
            ax.set_yticks([])
        if told.region is not None and told.region.modality == part.name:
            for ax in (plain, heat):
                show_box(ax, told.region.box, pixels.shape[1:3])
        plain.set_title(part.name if part.present else f"{part.name}: not there", fontsize=9.5, color=INK)
        heat.set_title("what counts", fontsize=9, color=MUTED)


def _experts(told: Case) -> dict[str, float]:
    """Label to effect, the largest first; with the layer where there are several."""
    layers = {part.layer for part in told.experts}
    ranked = sorted(told.experts, key=lambda part: -part.effect)[:BARS]
    return {
        part.label if len(layers) == 1 else f"{layer_label(part.layer)}, {part.label}": part.effect for part in ranked
    }


def _draw_bars(ax: Axes, values: dict[str, float], title: str, strongest: str) -> None:
    polish(ax, title, grid=False)
    names = list(values)
    ax.barh(range(len(names)), list(values.values()), color=[ALERT if n == strongest else RUNS[0] for n in names])
    ax.set_yticks(range(len(names)), [textwrap.fill(name, 22) for name in names])
    ax.invert_yaxis()
    ax.axvline(0, color=MUTED, linewidth=0.8)
    ax.tick_params(axis="y", length=0, labelcolor=INK)


def _draw_curves(ax: Axes, told: Case) -> None:
    trust = told.faithfulness
    polish(ax, "Deletion and insertion", xlabel="share of the cells", ylabel=_degree(told))
    lines = (
        ("deletion", RUNS[1], trust.deletion_curve, trust.random_deletion_curve, trust.deletion),
        ("insertion", RUNS[2], trust.insertion_curve, trust.random_insertion_curve, trust.insertion),
    )
    for name, color, curve, chance, area in lines:
        ax.plot(trust.shares, curve, color=color, linewidth=2, label=f"{name} {area:.3g}")
        random = trust.random_deletion if name == "deletion" else trust.random_insertion
        style = (0, (3, 3))
        ax.plot(trust.shares, chance, color=color, linewidth=1, linestyle=style, label=f"at random {random:.3g}")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    legend = ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=8, labelcolor=INK)
    legend.set_frame_on(False)  # below: the curves leave no room


def _degree(told: Case) -> str:
    return "probability" if told.unit == "log odds" else told.unit
