"""Positions: tables computed for a grid, and learned tables resized to another."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sincos2d(grid: tuple[int, int], dim: int, temperature: float, like: Tensor) -> Tensor:
    """(1, rows * columns, D): sines and cosines of the column, then of the row, at D / 4 wavelengths.

    As in MoCo v3 (Chen et al. 2021), with the longest wavelength reached: ``omega_k = temperature^-(k / (D/4 - 1))``.
    Computed in float32 at least.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    rows, columns = (torch.arange(n, dtype=dtype, device=like.device) for n in grid)
    steps = torch.arange(dim // 4, dtype=dtype, device=like.device) / (dim // 4 - 1)
    omega = 1.0 / temperature**steps
    y, x = (rows[:, None] * omega, columns[:, None] * omega)
    across = torch.cat([x.sin(), x.cos()], dim=1).expand(grid[0], -1, -1)
    down = torch.cat([y.sin(), y.cos()], dim=1)[:, None].expand(-1, grid[1], -1)
    return torch.cat([across, down], dim=2).reshape(1, grid[0] * grid[1], dim).to(like.dtype)


def resize_positions(table: Tensor, old: tuple[int, int], new: tuple[int, int], prefix: int) -> Tensor:
    """A (1, prefix + rows * columns, D) table for another grid: linear between the old places, whose corners stay.

    The way V-MoE's own fine-tuning resizes positions. Tokens before the grid keep theirs; where the number of places is
    that of the new grid already, nothing changes.
    """
    if table.shape[1] == prefix + new[0] * new[1]:
        return table
    before, body = table[:, :prefix], table[:, prefix:]
    body = body.to(torch.promote_types(body.dtype, torch.float32)).unflatten(1, old).permute(0, 3, 1, 2)
    body = F.interpolate(body, size=new, mode="bilinear", align_corners=True)
    return torch.cat([before, body.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)
