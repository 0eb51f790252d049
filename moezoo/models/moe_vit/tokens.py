"""Where the tokens of an image lie: a grid, behind the class token where there is one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TokenLayout:
    """One for all blocks of a model, kept right by the model when its image size changes."""

    grid: tuple[int, int]
    """Rows and columns of an image of the model's size."""
    prefix: int
    """Tokens before them."""

    def of(self, length: int) -> tuple[tuple[int, int] | None, int]:
        """Grid and prefix of ``length`` tokens: those of the model's image size, or of the shape nearest to it."""
        cells = length - self.prefix
        rows, columns = self.grid
        if cells == rows * columns:
            return self.grid, self.prefix
        fits = [(n, cells // n) for n in range(1, cells + 1) if cells % n == 0]
        if not fits:
            return None, 0
        return min(fits, key=lambda fit: abs(fit[0] * columns - fit[1] * rows)), self.prefix
