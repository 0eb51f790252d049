"""The part of an image that counts most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Region:
    """Connected cells of one spectrum."""

    modality: str
    box: tuple[float, float, float, float]
    """Left, top, right and bottom edge, as fractions of the image's width and height."""
    share: float
    """Of all that speaks for the decision, in this image and all its spectra."""

    @property
    def place(self) -> str:
        """``upper left``, ``middle``, …: where its centre lies."""
        left, top, right, bottom = self.box
        across = ("left", "", "right")[min(int(3 * (left + right) / 2), 2)]
        down = ("upper", "", "lower")[min(int(3 * (top + bottom) / 2), 2)]
        return " ".join(word for word in (down, across) if word) or "middle"


def find_region(saliency: np.ndarray, modalities: tuple[str, ...]) -> Region | None:
    """The cells around the strongest one that have at least half of its value; ``None`` if no value is above 0.

    Args:
        saliency: (M, rows, columns).
        modalities: M names.
    """
    peak = np.unravel_index(int(saliency.argmax()), saliency.shape)
    highest = float(saliency[peak])
    if not highest > 0:
        return None
    own = saliency[peak[0]]
    found, waiting = set(), [(int(peak[1]), int(peak[2]))]
    while waiting:
        row, column = waiting.pop()
        inside = 0 <= row < own.shape[0] and 0 <= column < own.shape[1]
        if not inside or (row, column) in found or own[row, column] < highest / 2:
            continue
        found.add((row, column))
        waiting += [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)]
    rows, columns = (sorted(each) for each in zip(*found, strict=True))
    height, width = own.shape
    box = columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height
    share = sum(float(own[cell]) for cell in found) / float(saliency[saliency > 0].sum())
    return Region(modalities[int(peak[0])], box, share)
