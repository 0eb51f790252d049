"""The image's size, which the reference's configuration does not say: the table of positions does."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

NOMINAL = 224
"""Side of the image where there is no table; then any size works."""


def squarest(cells: int) -> tuple[int, int]:
    """Rows and columns of a grid: of all that multiply to ``cells`` the most square, no taller than wide."""
    rows = max(n for n in range(1, int(cells**0.5) + 1) if cells % n == 0)
    return rows, cells // rows


def table_rows(table: NDArray[Any] | None, width: int) -> int | None:
    """Rows of a (1, N, width) table; of a transposed one too, so that the report of it says what was meant."""
    if table is None or table.ndim != 3:
        return None
    _, rows, other = table.shape
    return other if rows == width and other != width else rows


def native_size(cells: int | None, patch: tuple[int, int]) -> int | tuple[int, int]:
    """Side, or (height, width), of the image with ``cells`` patches; ``None``: about 224."""
    if cells is None or cells < 1:
        rows, columns = (max(1, NOMINAL // side) for side in patch)
    else:
        rows, columns = squarest(cells)
    height, width = rows * patch[0], columns * patch[1]
    return height if height == width else (height, width)
