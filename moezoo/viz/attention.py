"""Attention drawn over the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from moezoo.errors import InputError
from moezoo.viz.grid import image_grid, layer_label
from moezoo.viz.heat import heat_bar, show_heat
from moezoo.viz.style import Picture, to_arrays


def attention_received(weights: Tensor, grid: tuple[int, int], prefix_tokens: int = 0) -> Tensor:
    """(B, rows, columns): how much the image's tokens look at each of them, mean over heads and queries.

    Attention to prefix tokens (class token, registers) is left out, so that a map sums to at most 1.

    Args:
        weights: (B, heads, queries, keys) attention, each query's summing to 1.
        grid: Rows and columns of the keys that lie on the image.
        prefix_tokens: Keys before them.

    Raises:
        InputError: There are not that many keys.
    """
    rows, columns = grid
    if weights.dim() != 4 or weights.shape[-1] != prefix_tokens + rows * columns:
        raise InputError(
            f"weights must be (B, heads, queries, {prefix_tokens + rows * columns}) for {prefix_tokens} tokens before "
            f"a grid of {rows} x {columns}, got {tuple(weights.shape)}"
        )
    return weights.float().mean((1, 2))[:, prefix_tokens:].reshape(-1, rows, columns)


def attention_figure(
    images: Tensor,
    maps: Mapping[str, Tensor],
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
) -> Picture:
    """The images, and below them once per layer the same images, lighter where more attention goes.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        maps: Name of a layer to its (B, rows, columns) attention, of :func:`attention_received`.
        titles: B short texts above the images.
        wrong: B times whether the title is to stand out as a mistake.

    Returns:
        With ``data["maps"]``: what was given, as arrays; ``data["relative"]``: over an even attention, as drawn.

    Raises:
        InputError: There is no map, or maps are of another number of images.
    """
    if not maps:
        raise InputError("attention_figure needs at least one layer's attention")
    for name, each in maps.items():
        if each.dim() != 3 or len(each) != len(images):
            raise InputError(f"maps[{name!r}] must be ({len(images)}, rows, columns), got {tuple(each.shape)}")
    pixels = to_arrays(images)
    arrays = {name: each.detach().float().cpu().numpy() for name, each in maps.items()}
    relative = {name: each * each[0].size for name, each in arrays.items()}
    # One patch that takes everything must not turn the others black.
    highest = max(2.0, float(np.quantile(np.concatenate([each.ravel() for each in relative.values()]), 0.99)))
    figure, columns = image_grid(pixels, list(map(layer_label, maps)), titles=titles, wrong=wrong)
    for index, column in enumerate(columns):
        for ax, heat in zip(column[1:], relative.values(), strict=True):
            show_heat(ax, pixels[index], heat[index], highest)
    heat_bar(figure, "attention received, 1 = even", highest)
    figure.data = {"maps": arrays, "relative": relative}
    return figure
