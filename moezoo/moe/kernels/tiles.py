"""Tiles of rows: up to so many neighbouring rows of one expert, found from the offsets alone, without a wait."""

from __future__ import annotations

import triton
import triton.language as tl

from moezoo.moe.kernels.launch import blocks_of


@triton.jit
def tile(number, offsets_ptr, N, E, ROWS: tl.constexpr, BLOCK_E: tl.constexpr):
    """The expert of a tile, the first row of it, and where the expert's rows end.

    Expert E stands for the dropped rows, which come last. Tiles behind the last one are empty.
    """
    e = tl.arange(0, BLOCK_E)
    stop = tl.load(offsets_ptr + e, mask=e < E, other=N)
    start = tl.load(offsets_ptr + e - 1, mask=(e > 0) & (e <= E), other=N)
    start = tl.where(e == 0, 0, start)
    tiles = (stop - start + ROWS - 1) // ROWS
    until = tl.cumsum(tiles, 0)
    expert = tl.sum((until <= number).to(tl.int32), 0)
    mine = e == expert
    first = tl.sum(tl.where(mine, start + (number - until + tiles) * ROWS, 0), 0)
    return expert, first, tl.sum(tl.where(mine, stop, 0), 0)


@triton.jit
def tiles_before(offsets_ptr, expert, E, ROWS: tl.constexpr, BLOCK_E: tl.constexpr):
    """How many tiles the experts before ``expert`` have, and how many it has."""
    e = tl.arange(0, BLOCK_E)
    stop = tl.load(offsets_ptr + e, mask=e < E, other=0)
    start = tl.load(offsets_ptr + e - 1, mask=(e > 0) & (e < E), other=0)
    tiles = (stop - start + ROWS - 1) // ROWS
    return tl.sum(tl.where(e < expert, tiles, 0), 0), tl.sum(tl.where(e == expert, tiles, 0), 0)


def number_of_tiles(rows: int, experts: int, size: int) -> int:
    """A bound: every expert, and the dropped rows, may leave one tile unfilled."""
    return blocks_of(size, rows) + experts


def block_of_experts(experts: int) -> int:
    return triton.next_power_of_2(experts + 1)
