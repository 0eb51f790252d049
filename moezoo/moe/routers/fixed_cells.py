"""The same places of every sample to the big expert, whatever is there: the middle of the image, for example."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from moezoo.errors import ConfigError, InputError
from moezoo.moe.checks import check_int, check_probability
from moezoo.moe.routers.fixed import fixed_routing
from moezoo.moe.routers.hash import positions
from moezoo.moe.routers.split import SplitRouter, best_tokens, by_sample
from moezoo.moe.types import Routing


class FixedCellsRouter(SplitRouter):
    """Tokens at the first of the listed positions to expert 0, all others to expert 1. It has no parameters.

    Args:
        cells: Positions in the sample, from 0 on, the most important first; :func:`central_cells` lists a grid's.
        fraction: ``ceil(fraction * L)`` of the sample's L positions are used, the listed ones first and then the others
            in their order; ``None`` uses exactly those listed. :func:`moezoo.moe.set_budget` is another fraction.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s; ``num_experts`` must be 2 and ``top_k`` 1.

    Raises:
        ConfigError: ``cells`` are not whole numbers, or one is there twice.
        InputError: At a call: a sample has no such position.
    """

    rank: Tensor
    """(max(cells) + 1,) int64: how early each position is listed; those not listed come after all that are."""

    def __init__(
        self, dim: int, num_experts: int, *, cells: Sequence[int] = (0,), fraction: float | None = None, **shared
    ):
        super().__init__(dim, num_experts, **shared)
        if isinstance(cells, str) or not isinstance(cells, Sequence) or not cells or len(set(cells)) != len(cells):
            raise ConfigError(f"cells={cells!r} is not allowed: it must list positions, none of them twice.")
        self.cells = [check_int("cells", cell, low=0) for cell in cells]
        self.fraction = None if fraction is None else check_probability("fraction", fraction)
        rank = torch.full((max(self.cells) + 1,), len(self.cells))
        rank[torch.tensor(self.cells)] = torch.arange(len(self.cells))
        self.register_buffer("rank", rank, persistent=False)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        num_tokens, listed = x_TD.shape[0], len(self.rank)
        if num_tokens and num_tokens // samples < listed:
            raise InputError(f"cells name position {listed - 1}; a sample has {num_tokens // samples} tokens")
        place_T = positions(x_TD, samples)
        rank_T = torch.where(place_T < listed, self.rank[place_T.clamp(max=listed - 1)], len(self.cells))
        fraction = self.fraction if self.budget is None else self.budget
        if fraction is None:
            chosen_T = rank_T < len(self.cells)
        else:
            chosen_T = best_tokens(by_sample(-rank_T, samples), fraction)[0].reshape(-1)
        return fixed_routing(x_TD, torch.where(chosen_T, 0, 1)[:, None], 2, False)


def central_cells(grid: tuple[int, int]) -> list[int]:
    """The positions of a grid of (rows, columns), from its middle outwards; ties to the lowest index."""
    rows, columns = (check_int("grid", size, low=1) for size in grid)

    def away(cell: int) -> float:
        row, column = divmod(cell, columns)
        return ((2 * row + 1 - rows) / rows) ** 2 + ((2 * column + 1 - columns) / columns) ** 2

    return sorted(range(rows * columns), key=lambda cell: (round(away(cell), 9), cell))
