"""Images side by side, and below each of them the same image in other lights."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from moezoo.eval.routing import short_name
from moezoo.measure.profile_table import block_of
from moezoo.viz.style import ALERT, INK, Picture, new_figure, show_image

SIDE, FEW, FEW_SIDE = 1.35, 4, 2.3
"""Inches for the width of an image and what is between it and the next; up to so many images there is room for more."""
COLUMNS = 8
"""Most images side by side; more are spread evenly over several bands."""


def image_grid(
    pixels: np.ndarray,
    below: Sequence[str],
    *,
    titles: Sequence[str] | None = None,
    wrong: Sequence[bool] | None = None,
) -> tuple[Picture, list[list[Axes]]]:
    """A figure that shows the images, with room for ``below`` under each.

    Args:
        pixels: (B, H, W, C) in [0, 1].
        below: Labels of the rows under the images.
        titles: B short texts above the images.
        wrong: B times whether the title is to stand out as a mistake.

    Returns:
        The figure, and for each image its axes from top to bottom: the image's own, then one per label.
    """
    count, per_band = len(pixels), 1 + len(below)
    bands = -(-count // COLUMNS)
    columns = -(-count // bands)
    side = SIDE if columns > FEW else FEW_SIDE
    figure = new_figure(side * columns + 0.5, (side + 0.07) * per_band * bands + 0.75, pad=0.05)
    axes = figure.subplots(per_band * bands, columns, squeeze=False)
    filled = []
    for index in range(bands * columns):
        column = list(axes[index // columns * per_band :, index % columns][:per_band])
        if index >= count:
            for ax in column:
                ax.set_visible(False)
            continue
        filled.append(column)
        show_image(column[0], pixels[index])
        if index % columns == 0:
            for ax, label in zip(column, ["input", *below], strict=True):
                ax.set_ylabel(textwrap.fill(label.replace(".", ". "), 16).replace(". ", "."), fontsize=9, color=INK)
        if titles is not None:
            write_title(column[0], titles[index], mistake=wrong is not None and wrong[index])
    return figure, filled


def layer_label(name: str) -> str:
    """A layer's path without what says nothing more: of ``encoder.blocks.3.moe`` the block."""
    return block_of(short_name(name).partition(".token_routing")[0])


def write_title(ax: Axes, text: str, *, mistake: bool = False) -> None:
    """``text`` above an image, standing out if it tells of a mistake."""
    weight = "bold" if mistake else "normal"
    ax.set_title(fitted(text, 20, 3), fontsize=9, color=ALERT if mistake else INK, pad=4, fontweight=weight)


def fitted(text: str, width: int, lines: int) -> str:
    """``text`` in at most so many lines of so many signs; wide signs, such as Chinese ones, count as two."""
    if any(unicodedata.east_asian_width(sign) in "WF" for sign in text):
        width //= 2
    # Its own lines stay lines.
    parts = [part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]]
    if len(parts) > lines:
        parts[lines - 1 :] = [parts[lines - 1][: width - 1].rstrip() + "…"]
    return "\n".join(parts)
