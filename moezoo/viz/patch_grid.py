"""The patches of an image apart from each other, with their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from moezoo.viz.attention_routing import checked_layers, legend
from moezoo.viz.cells import CellScores
from moezoo.viz.decisions import ROUTED, VEIL, Boxes, show_box
from moezoo.viz.grid import fitted, layer_label
from moezoo.viz.style import ALERT, INK, MUTED, Picture, new_figure, show_image, to_arrays

NUMBERED = 16
"""On grids of more rows or columns the scores are not written."""


def patch_grid_figure(
    images: Tensor,
    layer: CellScores,
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
    boxes: Boxes | None = None,
) -> Picture:
    """Each image cut into its patches, with their scores in hundredths; those of the big expert framed, others faded.

    Args:
        images: (B, C, H, W) pixels in [0, 1], C 1 or 3.
        layer: Of the forward of exactly these images; of :func:`cell_scores` or :func:`given_scores`.
        titles: B short texts above the images.
        wrong: B times whether the title is to stand out as a mistake.
        boxes: B times where the thing to be found is, if known.

    Returns:
        With ``data``: ``scores``, ``chosen``, ``ratio``, ``threshold`` and ``boxes``.

    Raises:
        InputError: The numbers of images do not fit.
    """
    (layer,) = checked_layers(layer, images, boxes)
    pixels, (rows, columns) = to_arrays(images), layer.scores.shape[1:]
    numbered = max(rows, columns) <= NUMBERED
    side = float(np.clip(0.36 * max(rows, columns), 2.4, 5.4)) if numbered else 4.0
    bands = -(-len(pixels) // max(1, int(11 // side)))
    per_row = -(-len(pixels) // bands)
    figure = new_figure(side * per_row + 0.3, (side + 0.5) * bands + 0.6, pad=0.06)
    axes = figure.subplots(bands, per_row, squeeze=False).flatten()
    for index, ax in enumerate(axes):
        if index >= len(pixels):
            ax.set_visible(False)
            continue
        scores, chosen = layer.scores[index].numpy(), layer.chosen[index].numpy()
        _show_patches(ax, pixels[index], chosen)
        if numbered:
            _write_scores(ax, pixels[index], scores, chosen, side)
        show_box(ax, boxes[index] if boxes is not None else None, pixels[index].shape[:2])
        mistaken = wrong is not None and wrong[index]
        text = f"{fitted(titles[index], 26, 1)}, " if titles is not None else ""
        ax.set_title(
            f"{text}{int(chosen.sum())} of {chosen.size} routed", fontsize=9.5, color=ALERT if mistaken else INK, pad=5
        )
    name = f"{layer_label(layer.layer)}: " if layer.layer else ""
    if numbered:
        figure.suptitle(f"{name}scores in hundredths", fontsize=9, color=MUTED)
    legend(figure, [layer], boxes)
    figure.data = {
        "scores": layer.scores.numpy(),
        "chosen": layer.chosen.numpy(),
        "ratio": layer.ratio.numpy(),
        "threshold": layer.threshold.numpy(),
        "boxes": boxes,
    }
    return figure


def _show_patches(ax: Axes, pixels: np.ndarray, chosen: np.ndarray) -> None:
    (height, width), (rows, columns) = pixels.shape[:2], chosen.shape
    show_image(ax, pixels)
    veil = np.full((rows, columns, 4), VEIL)
    veil[..., 3] = np.where(chosen, 0, 0.7)
    ax.imshow(veil, interpolation="nearest", extent=(0, width, height, 0))
    gap = 4 if max(rows, columns) <= 8 else 2
    ax.hlines(np.arange(rows + 1) * height / rows, 0, width, colors="white", linewidth=gap, clip_on=False)
    ax.vlines(np.arange(columns + 1) * width / columns, 0, height, colors="white", linewidth=gap, clip_on=False)
    tall, wide = height / rows, width / columns
    for row, column in np.argwhere(chosen):
        place = ((column + 0.04) * wide, (row + 0.04) * tall)
        ax.add_patch(
            Rectangle(place, 0.92 * wide, 0.92 * tall, fill=False, edgecolor=ROUTED, linewidth=0.5 * gap, zorder=3)
        )
    ax.set_xlim(0, width)
    ax.set_ylim(height, 0)


def _write_scores(ax: Axes, pixels: np.ndarray, scores: np.ndarray, chosen: np.ndarray, side: float) -> None:
    (height, width), (rows, columns) = pixels.shape[:2], scores.shape
    tops, lefts = (np.linspace(0, n, cells + 1).astype(int) for n, cells in ((height, rows), (width, columns)))
    font = float(np.clip(side / max(rows, columns) * 20, 6.5, 11))
    for (row, column), score in np.ndenumerate(scores):
        patch = pixels[tops[row] : tops[row + 1], lefts[column] : lefts[column + 1]]
        # What is faded is light.
        dark = bool(chosen[row, column]) and patch.size > 0 and float(patch.mean()) < 0.55
        ax.text(
            (column + 0.5) * width / columns,
            (row + 0.5) * height / rows,
            f"{min(int(score * 100), 99):02d}",
            ha="center",
            va="center",
            fontsize=font,
            color="white" if dark else INK,
            fontweight="bold" if chosen[row, column] else "normal",
            path_effects=[withStroke(linewidth=2, foreground=INK if dark else "white")]
            if chosen[row, column]
            else None,
            zorder=4,
        )
