"""Queries, and what was found for them in the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from torch import Tensor

from moezoo.errors import InputError
from moezoo.viz.grid import fitted
from moezoo.viz.montage import montage
from moezoo.viz.numbers import finite_array
from moezoo.viz.predictions import frame
from moezoo.viz.style import ALERT, INK, MUTED, RUNS, Picture, new_figure, show_image

RIGHT, WRONG = RUNS[2], ALERT
"""Colours of the frames."""


@dataclass(frozen=True, eq=False)
class GalleryRow:
    """One query and its best matches, the best first."""

    query: Tensor
    """(M, C, H, W) pixels in [0, 1], or (C, H, W) of one spectrum."""
    matches: Tensor
    """(K, M, C, H, W) or (K, C, H, W)."""
    distances: Sequence[float]
    right: Sequence[bool]
    """Whether a match is of the query's identity."""
    label: str = ""
    """Of the query, such as its identity and camera."""
    labels: Sequence[str] = ()
    """Of the matches, such as their cameras; none or K."""


def gallery_figure(rows: Sequence[GalleryRow], *, title: str = "What was found in the gallery") -> Picture:
    """A row per query: left the query, then its best matches with their distances, right ones framed green, wrong ones
    orange. All spectra of a sighting are shown.

    Args:
        rows: What is drawn.
        title: Above the picture.

    Returns:
        With ``data``: ``distances`` and ``right`` of each row, and ``first`` (queries whose first match is right).

    Raises:
        InputError: There is no row, a row without a match, or its numbers do not fit.
    """
    if not rows:
        raise InputError("gallery_figure needs at least one query")
    for number, row in enumerate(rows):
        found = len(row.matches)
        finite_array(f"distances of row {number}", row.distances, dims=1)
        if len(row.distances) != found or len(row.right) != found or len(row.labels) not in (0, found):
            raise InputError(
                f"row {number} has {found} matches, but {len(row.distances)} distances, {len(row.right)} times right "
                f"or wrong and {len(row.labels)} labels"
            )
    most = max(len(row.matches) for row in rows)
    height, width = montage(rows[0].query).shape[:2]
    tall = min(max(1.25 * height / width, 0.7), 2.6)
    figure = new_figure(1.3 * (1 + most) + 0.9, (tall + 0.45) * len(rows) + 0.6, pad=0.04)
    axes = figure.subplots(len(rows), 1 + most, squeeze=False)
    for line, row in zip(axes, rows, strict=True):
        _show(line[0], row.query, INK, "query", row.label)
        for ax in line[1 + len(row.matches) :]:
            ax.set_visible(False)
        for place, ax in enumerate(line[1 : 1 + len(row.matches)]):
            below = row.labels[place] if row.labels else ""
            _show(ax, row.matches[place], RIGHT if row.right[place] else WRONG, f"{row.distances[place]:.3g}", below)
    first = sum(bool(row.right[0]) for row in rows)
    figure.suptitle(
        f"{title}: the first is right for {first} of {len(rows)} queries; above, the distance; green: the same "
        "identity, orange: another",
        fontsize=9,
        color=MUTED,
        wrap=True,
    )
    figure.data = {
        "distances": [list(map(float, row.distances)) for row in rows],
        "right": [list(map(bool, row.right)) for row in rows],
        "first": first,
    }
    return figure


def _show(ax: Axes, images: Tensor, color: str, above: str, below: str) -> None:
    show_image(ax, montage(images))
    frame(ax, color)
    ax.set_title(above, fontsize=8.5, color=color, pad=3)
    ax.set_xlabel(fitted(below, 22, 2), fontsize=7.5, color=MUTED, labelpad=2)
