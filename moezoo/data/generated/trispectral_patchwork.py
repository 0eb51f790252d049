"""A coarse cue that no small window shows: which of four patterns keeps its sign over large squares."""

from __future__ import annotations

import numpy as np

CELL = 8
"""Side of a cell in pixels, as large as the patches of ``multiscale_moe/synthetic``."""
CELLS = 4
"""Side of a square in cells, in which the cells agree on the sign of one pattern."""
_HALVES = np.repeat([1.0, -1.0], CELL // 2)
PATTERNS = np.stack(
    [
        np.ones((CELL, CELL)),
        np.tile(_HALVES[:, None], (1, CELL)),
        np.tile(_HALVES, (CELL, 1)),
        np.outer(_HALVES, _HALVES),
    ]
)
"""Flat, halves one above the other, halves side by side, quarters. Each is orthogonal to the others."""


def patchwork(level: int, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width), the sum of the four patterns in every cell, each with a sign of its own.

    The signs are drawn for each cell, those of pattern ``level`` for each square of cells; half of them are minus. So
    a cell alone, and the mean over the picture, are the same whatever the level is: only the mean over a square is not.
    """
    total = np.zeros((height, width))
    for number, pattern in enumerate(PATTERNS):
        side = CELLS if number == level else 1
        rows, columns = height // (CELL * side), width // (CELL * side)
        signs = rng.permutation(np.arange(rows * columns) % 2 * 2 - 1).reshape(rows, columns)
        total += np.kron(np.kron(signs, np.ones((side, side))), pattern)
    return total
