"""Every picture of where the tokens of some images went, by the kind of their layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from moezoo.data.load import input_options
from moezoo.data.splits import Shown
from moezoo.eval.answers import placed
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing
from moezoo.viz.attention_routing import attention_heat_figure, routing_decisions_figure, score_and_routing_figure
from moezoo.viz.decisions import Boxes
from moezoo.viz.layers import choose_records, over_images, split_layers
from moezoo.viz.patch_grid import patch_grid_figure
from moezoo.viz.regions import regions_figure
from moezoo.viz.routing import routing_figure
from moezoo.viz.style import MUTED, Picture

PATCHES = 4
"""Images whose patches are drawn one by one."""


def routed_figures(
    model: nn.Module,
    pixels: Tensor,
    records: Sequence[RoutingRecord],
    *,
    titles: Sequence[str],
    wrong: Sequence[bool] | None = None,
    boxes: Boxes | None = None,
) -> dict[str, Picture]:
    """Of layers with a big and a small expert ``routing_decisions``, and where they score cells ``attention_heat`` and
    ``patch_grid``; of others ``routing`` and ``expert_regions``.

    Args:
        model: Whose layers they are.
        pixels: (B, C, H, W) in [0, 1].
        records: Of the forward of exactly these images, tokens on grids.
        titles: B short texts above the images.
        wrong: B times whether the title is to stand out as a mistake.
        boxes: B times where the thing to be found is, if known.
    """
    split, others = split_layers(model, records)
    figures: dict[str, Picture] = {}
    if others:
        figures["routing"] = routing_figure(pixels, others, titles=titles, wrong=wrong)
        figures["expert_regions"] = regions_figure(pixels, others[-1], titles=titles, rows=PATCHES)
    shown: dict[str, Any] = {"titles": titles, "wrong": wrong, "boxes": boxes}
    if scored := [each for each in split if each.scored]:
        figures["attention_heat"] = attention_heat_figure(pixels, scored, **shown)
    if split:
        figures["routing_decisions"] = routing_decisions_figure(pixels, split, **shown)
    if scored:
        few = {key: value[:PATCHES] if value is not None else None for key, value in shown.items()}
        figures["patch_grid"] = patch_grid_figure(pixels[:PATCHES], scored[-1][:PATCHES], **few)
    return figures


def attention_routing_figure(
    model: nn.Module,
    images: Tensor,
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
    boxes: Boxes | None = None,
    layer: str | None = None,
    title: str = "",
) -> Picture:
    """:func:`score_and_routing_figure` of images as the model takes them, such as the same few after every epoch.

    Args:
        model: With layers of a big and a small expert; run in evaluation mode, and left as it was.
        images: (B, C, H, W), normalised as the model's ``pretrained_cfg`` says.
        titles: B short texts above the images.
        wrong: B times whether the title is to stand out as a mistake.
        boxes: B times where the thing to be found is, if known.
        layer: Such a layer's path or its beginning; by default the last three.
        title: Above the picture.

    Raises:
        ConfigError: The model has no such layer, or no ``pretrained_cfg``.
    """
    with evaluating(model), record_routing(model) as records:
        model(placed(model, images))
    split, _ = split_layers(model, over_images(records))
    names = {each.layer for each in split}
    chosen = choose_records(model, [record for record in over_images(records) if record.name in names], layer)
    figure = score_and_routing_figure(
        pixels_of(model, images), split_layers(model, chosen)[0], titles=titles, wrong=wrong, boxes=boxes
    )
    if title:
        figure.suptitle(title, fontsize=9.5, color=MUTED)
    return figure


def pixels_of(model: nn.Module, images: Tensor) -> Tensor:
    """(B, C, H, W) normalised images of ``model`` back to pixels in [0, 1].

    Raises:
        ConfigError: ``model`` has no ``pretrained_cfg`` that says how they were normalised.
    """
    options, shown = input_options(model), Shown()
    shown.mean, shown.std = options["mean"], options["std"]
    return shown.to_pixels(images)
