"""What each expert sees of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.record import RoutingRecord
from moezoo.viz.grid import fitted, layer_label, write_title
from moezoo.viz.style import INK, MUTED, Picture, expert_colors, new_figure, show_image, to_arrays

MOST = 12
"""More experts than this are left out, the idlest first."""


def expert_weights(record: RoutingRecord) -> Tensor:
    """(B, E, rows, columns) float: the weight of every expert for every token on the grid, 0 where it is not used.

    Raises:
        InputError: The layer's tokens do not lie on a grid.
    """
    if record.grid is None:
        raise InputError(f"the tokens of {record.name!r} do not lie on a grid, so they cannot be drawn over an image")
    routing, (rows, columns) = record.routing, record.grid
    weight_TE = torch.zeros(routing.num_tokens, routing.num_experts)
    kept = ~routing.dropped.cpu()
    place = (routing.token_index.cpu()[kept], routing.expert_index.cpu()[kept])
    weight_TE.index_put_(place, routing.weight.detach().float().cpu()[kept], accumulate=True)
    per_image = record.prefix_tokens + rows * columns
    on_grid = weight_TE.view(-1, per_image, routing.num_experts)[:, record.prefix_tokens :]
    return on_grid.transpose(1, 2).reshape(-1, routing.num_experts, rows, columns)


def regions_figure(
    images: Tensor, record: RoutingRecord, *, titles: Sequence[str] | None = None, rows: int | None = None
) -> Picture:
    """One row per image, one column per expert: the image shows where the expert is used, the clearer the more.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        record: Of one layer, of the forward of exactly these images.
        titles: B short texts beside the images.
        rows: Draw the first so many images; by default all. Shares are over all of them.

    Returns:
        With ``data["weights"]``: (B, E, rows, columns), of :func:`expert_weights`; ``data["experts"]``: those drawn.

    Raises:
        InputError: The layer has no grid, or routed other images.
    """
    weights = expert_weights(record)
    if len(weights) != len(images):
        raise InputError(f"{record.name!r} routed {len(weights)} images, but {len(images)} are to be drawn")
    load = weights.sum((0, 2, 3))
    experts = sorted(load.argsort(descending=True, stable=True)[:MOST].tolist())
    highest = float(weights.max())
    pixels, colors = to_arrays(images[:rows]), expert_colors(weights.shape[1])
    figure = new_figure(1.25 * (1 + len(experts)) + 0.6, 1.25 * len(pixels) + 0.7, pad=0.03)
    axes = figure.subplots(len(pixels), 1 + len(experts), squeeze=False)
    for row, image in enumerate(pixels):
        show_image(axes[row, 0], image)
        if titles is not None:
            axes[row, 0].set_ylabel(fitted(titles[row], 16, 3), fontsize=9, color=INK)
        height, width = image.shape[:2]
        for ax, expert in zip(axes[row, 1:], experts, strict=True):
            # What the expert is not used for fades to a light shade of its colour.
            show_image(ax, image)
            share = (weights[row, expert] / max(highest, 1e-12)).numpy()
            veil = torch.ones(*share.shape, 4).numpy()
            veil[..., :3] = 0.88 + 0.12 * torch.tensor(colors[expert]).numpy()
            veil[..., 3] = 1 - share
            ax.imshow(veil, interpolation="nearest", extent=(0, width, height, 0))
            ax.spines[:].set(visible=True, color=colors[expert], linewidth=1.2)
    write_title(axes[0, 0], "input")
    for ax, expert in zip(axes[0, 1:], experts, strict=True):
        write_title(ax, f"expert {expert}  {float(load[expert] / load.sum().clamp(min=1e-12)):.0%}")
    left_out = "" if len(experts) == len(load) else f", the {MOST} busiest of {len(load)} experts"
    figure.suptitle(f"{layer_label(record.name)}: share of the weights{left_out}", fontsize=9, color=MUTED)
    figure.data = {"layer": record.name, "weights": weights.numpy(), "experts": experts}
    return figure
