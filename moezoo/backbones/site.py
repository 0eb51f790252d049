"""Where an adapter goes, and how the features lie there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Layout = Literal["NLC", "NHWC", "NCHW"]


@dataclass(frozen=True)
class Block:
    """One block of a backbone, in forward order."""

    name: str
    """Module path of the block, as its author named it."""
    stage: int
    """Index of its stage (a group of blocks at one resolution); -1 for a module outside the stack of blocks."""
    stage_name: str
    """Module path of the stage; the container's path where blocks are not grouped into stages."""
    index: int
    """Index within the stage."""
    alone: bool = False
    """Whether its stage is the backbone's only one, so that the index alone names it."""


@dataclass(frozen=True)
class Site:
    """A block whose output an adapter changes."""

    block: Block
    position: int
    """Index of the block among all blocks; modules outside the stack come behind them."""
    module: str
    """Path of the module that is hooked: the block, or the last module in it when the block is a plain container."""
    holder: str
    """Path, inside the hooked module, of the module that holds the adapter as a child; ``""`` is the hooked module."""
    output_index: int | None
    """Which element of a tuple output holds the features; ``None`` when the output is a tensor."""
    layout: Layout
    dim: int
    """Channels."""
    grid: tuple[int, int] | None
    """Rows and columns of the tokens at the traced size, if they lie on a grid."""
    prefix_tokens: int
    """Tokens before the grid (class token, registers); 0 for maps."""

    def tokens(self, feature: Tensor) -> Tensor:
        """The features as (B, L, C)."""
        if self.layout == "NCHW":
            return feature.flatten(2).transpose(1, 2)
        return feature.flatten(1, -2)

    def like_feature(self, tokens: Tensor, feature: Tensor) -> Tensor:
        """(B, L, C) back in the layout of ``feature``."""
        if self.layout == "NCHW":
            return tokens.transpose(1, 2).reshape(feature.shape)
        return tokens.reshape(feature.shape)

    def grid_of(self, shape: Sequence[int]) -> tuple[int, int] | None:
        """Rows and columns of features of ``shape``: a map's own; a sequence's scaled from the traced grid."""
        if self.layout == "NCHW":
            return (shape[2], shape[3])
        if self.layout == "NHWC":
            return (shape[1], shape[2])
        if self.grid is None:
            return None
        rows, columns = self.grid
        patches = shape[1] - self.prefix_tokens
        if rows * columns == patches:
            return self.grid
        scale = (patches / (rows * columns)) ** 0.5
        scaled = (round(rows * scale), round(columns * scale))
        return scaled if scaled[0] * scaled[1] == patches else None
