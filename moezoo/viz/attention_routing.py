"""Where a model with one score per cell looks, and what it computes there by its big expert."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.viz.cells import CellScores
from moezoo.viz.decisions import PLACE, ROUTED, VEIL, Boxes, show_box, show_decisions
from moezoo.viz.grid import image_grid, layer_label
from moezoo.viz.heat import heat_bar, heat_span, show_smooth_heat
from moezoo.viz.style import INK, MUTED, Picture, to_arrays

BAR, LEGEND = 0.4, 0.25
"""Inches below the images."""
Layers = CellScores | Sequence[CellScores]


def attention_heat_figure(
    images: Tensor,
    layers: Layers,
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
    boxes: Boxes | None = None,
) -> Picture:
    """The images, and below them once per layer the same images, lighter where a cell's score is higher.

    Between the centres of the cells the heat is bilinear. A line encloses what lies above the threshold.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        layers: Of the forward of exactly these images; of :func:`cell_scores` or :func:`given_scores`.
        titles: B short texts above the images.
        wrong: B times whether the title is to stand out as a mistake.
        boxes: B times where the thing to be found is, if known.

    Returns:
        With ``data``: ``scores`` and ``threshold`` of each layer, ``heat`` as drawn, ``boxes``.

    Raises:
        InputError: There is no layer, or the numbers of images do not fit.
    """
    return _figure(images, layers, ("score",), titles, wrong, boxes)


def routing_decisions_figure(
    images: Tensor,
    layers: Layers,
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
    boxes: Boxes | None = None,
) -> Picture:
    """The images, and below them once per layer the same images: what the big expert computes is clear and outlined,
    the rest faded; above each the share of its cells that were chosen.

    Arguments and errors as of :func:`attention_heat_figure`.

    Returns:
        With ``data``: ``chosen`` and ``ratio`` of each layer, ``boxes``.
    """
    return _figure(images, layers, ("routed",), titles, wrong, boxes)


def score_and_routing_figure(
    images: Tensor,
    layers: Layers,
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
    boxes: Boxes | None = None,
) -> Picture:
    """The two above in one: the images, then of each layer the heat of its scores, and what was made of them."""
    return _figure(images, layers, ("score", "routed"), titles, wrong, boxes)


def checked_layers(layers: Layers, images: Tensor, boxes: Boxes | None = None) -> list[CellScores]:
    """``layers`` as a list, all of them of these images.

    Raises:
        InputError: There is none, or they or ``boxes`` are of another number of images.
    """
    found = [layers] if isinstance(layers, CellScores) else list(layers)
    if not found:
        raise InputError("there is no layer with a score per cell to draw")
    for each in found:
        if len(each.scores) != len(images):
            raise InputError(f"{each.layer!r} scored {len(each.scores)} images, but {len(images)} are to be drawn")
    if boxes is not None and len(boxes) != len(images):
        raise InputError(f"boxes are of {len(boxes)} images, but {len(images)} are to be drawn")
    return found


def _figure(
    images: Tensor,
    layers: Layers,
    rows: tuple[str, ...],
    titles: Sequence[str] | None,
    wrong: Sequence[bool] | None,
    boxes: Boxes | None,
) -> Picture:
    found = checked_layers(layers, images, boxes)
    pixels = to_arrays(images)
    plan = [(each, row) for each in found for row in rows if row == "routed" or each.scored]
    if not plan:
        raise InputError(f"{found[0].layer!r} chooses cells without scoring them: there is no heat to draw")
    labels = [_label(each, row, len(found) > 1) for each, row in plan]
    figure, columns = image_grid(pixels, labels, titles=titles, wrong=wrong)
    scored = [each for each, row in plan if row == "score"]
    span = heat_span(np.concatenate([each.scores.numpy().ravel() for each in scored or found]))
    heat: dict[str, list[np.ndarray]] = {each.layer: [] for each in scored}
    for index, column in enumerate(columns):
        for ax, (each, row) in zip(column[1:], plan, strict=True):
            if row == "score":
                scores, level = each.scores[index].numpy(), float(each.threshold[index])
                heat[each.layer].append(show_smooth_heat(ax, pixels[index], scores, span, level))
            else:
                show_decisions(ax, pixels[index], each.chosen[index].numpy())
                write_ratio(ax, float(each.ratio[index]))
        for ax in column:
            show_box(ax, boxes[index] if boxes is not None else None, pixels[index].shape[:2])
    if scored:
        heat_bar(figure, *bar_of(scored, span))
        figure.data |= {"scores": {each.layer: each.scores.numpy() for each in scored}}
        figure.data |= {"threshold": {each.layer: each.threshold.numpy() for each in scored}}
        figure.data |= {"heat": {name: np.stack(drawn) for name, drawn in heat.items()}}
    if "routed" in rows:
        figure.data |= {"chosen": {each.layer: each.chosen.numpy() for each in found}}
        figure.data |= {"ratio": {each.layer: each.ratio.numpy() for each in found}}
    legend(figure, found if "routed" in rows else [], boxes)
    figure.set_figheight(figure.get_figheight() + BAR * bool(scored) + LEGEND * bool(figure.legends))
    figure.data["boxes"] = boxes
    return figure


def write_ratio(ax: Axes, ratio: float) -> None:
    """The share of the cells that were chosen, above an image."""
    ax.set_title(f"{ratio:.0%} routed", fontsize=8, color=MUTED, pad=3)


def bar_of(layers: Sequence[CellScores], span: tuple[float, float]) -> tuple[str, float, float, tuple[float, ...]]:
    """Label, ends and marks of the colour bar: the threshold, if all of the layers have the same."""
    thresholds = {round(float(value), 4) for each in layers for value in each.threshold}
    learned = next(iter(thresholds)) if len(thresholds) == 1 else float("nan")
    inside = span[0] <= learned <= span[1]
    if inside:
        return (
            f"score of a cell; from {learned:.2f} (line) on it is routed to the big expert",
            span[1],
            span[0],
            (learned,),
        )
    drawn = any(value == value for value in thresholds)
    return "score of a cell" + ("; the line is the lowest that was routed" if drawn else ""), span[1], span[0], ()


def legend(figure: Picture, layers: Sequence[CellScores], boxes: Boxes | None) -> None:
    """What outlines and boxes mean, below the figure."""
    handles: list[Patch | Line2D] = []
    if layers:
        ratio = float(np.mean([each.ratio.mean() for each in layers]))
        handles.append(Patch(facecolor="white", edgecolor=ROUTED, linewidth=1.8, label=f"big expert  {ratio:.0%}"))
        handles.append(Patch(facecolor=str(VEIL), label=f"small expert  {1 - ratio:.0%}"))
    if boxes is not None and any(box is not None for box in boxes):
        handles.append(Line2D([], [], color=PLACE, linewidth=1.8, label="what is to be found"))
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize=9,
            labelcolor=INK,
        )


def _label(scores: CellScores, row: str, several: bool) -> str:
    return f"{layer_label(scores.layer)} {row}" if several else row
