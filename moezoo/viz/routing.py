"""Token routing drawn over the images the tokens came from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.eval.routing import first_expert
from moezoo.moe.record import RoutingRecord
from moezoo.viz.grid import image_grid, layer_label
from moezoo.viz.style import INK, MUTED, Picture, expert_colors, show_image, to_arrays


def expert_map(record: RoutingRecord) -> Tensor:
    """(B, rows, columns) int64: every token's expert of the largest weight; -1 where all were dropped.

    Raises:
        InputError: The layer's tokens do not lie on a grid.
    """
    if record.grid is None:
        raise InputError(f"the tokens of {record.name!r} do not lie on a grid, so they cannot be drawn over an image")
    rows, columns = record.grid
    per_image = record.prefix_tokens + rows * columns
    return first_expert(record.routing).view(-1, per_image)[:, record.prefix_tokens :].reshape(-1, rows, columns)


def routing_figure(
    images: Tensor,
    records: Sequence[RoutingRecord],
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
    opacity: float = 0.62,
) -> Picture:
    """The images, and below them once per layer the same images with every patch in the colour of its expert.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3; :meth:`moezoo.data.Splits.to_pixels` gives them.
        records: One record per layer, of the forward of exactly these images.
        titles: B short texts above the images.
        wrong: B times whether the title is to stand out as a mistake.
        opacity: Of the colours, 0 to 1.

    Returns:
        With ``data["experts"]``: of each layer the (B, rows, columns) experts, as :func:`expert_map` gives them.

    Raises:
        InputError: No record, a layer without a grid, or records of other images.
    """
    if not records:
        raise InputError(
            "routing_figure needs at least one RoutingRecord; the model has no MoE layer or recorded nothing"
        )
    maps = [expert_map(record) for record in records]
    for record, experts in zip(records, maps, strict=True):
        if len(experts) != len(images):
            raise InputError(f"{record.name!r} routed {len(experts)} images, but {len(images)} are to be drawn")
    pixels = to_arrays(images)
    figure, columns = image_grid(pixels, [layer_label(r.name) for r in records], titles=titles, wrong=wrong)
    for index, column in enumerate(columns):
        for ax, experts, record in zip(column[1:], maps, records, strict=True):
            # Under the colours black is lifted to grey: they keep the hue the legend shows.
            show_image(ax, 0.4 + 0.6 * pixels[index])
            _overlay(ax, experts[index].numpy(), pixels[index].shape[:2], record.routing.num_experts, opacity)
    _legend(figure, maps, max(record.routing.num_experts for record in records))
    figure.data["experts"] = {record.name: each.numpy() for record, each in zip(records, maps, strict=True)}
    return figure


def _overlay(ax: Axes, experts: np.ndarray, size: tuple[int, int], num_experts: int, opacity: float) -> None:
    """Colour every cell of the token grid; the cells tile the image exactly, whatever the two sizes."""
    rows, columns = experts.shape
    height, width = size
    colors = np.array([*((*c, opacity) for c in expert_colors(num_experts)), (0, 0, 0, 0)])
    ax.imshow(colors[experts], interpolation="nearest", extent=(0, width, height, 0))
    if max(rows, columns) <= 32:  # finer grids would be all lines
        ax.hlines(np.arange(1, rows) * height / rows, 0, width, colors="white", linewidth=0.4, alpha=0.6)
        ax.vlines(np.arange(1, columns) * width / columns, 0, height, colors="white", linewidth=0.4, alpha=0.6)
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def _legend(figure: Figure, maps: Sequence[Tensor], num_experts: int) -> None:
    if num_experts > 16:
        return
    chosen = torch.cat([experts.flatten() for experts in maps])
    handles = [
        Patch(color=color, label=f"expert {i}  {(chosen == i).float().mean():.0%}")
        for i, color in enumerate(expert_colors(num_experts))
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(num_experts, 8),
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        title="share of the patches shown",
        title_fontproperties={"size": 8.5},
    )
    figure.legends[0].get_title().set_color(MUTED)
