"""Baselines in the place of the MoE layer: plain modules that decide nothing."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.models.attention_routing.costs import dense_width
from moezoo.models.attention_routing.experts import CellMLP, big_mlp, small_mlp
from moezoo.moe.experts import RowSource


class FullCompute(nn.Module):
    """The big MLP for every cell. With its width changed it is the dense twin."""

    def __init__(self, big: CellMLP):
        super().__init__()
        self.big = big

    def forward(self, big_rows: RowSource, small_rows: RowSource) -> Tensor:
        """(T, D) of all T cells."""
        return self.big(big_rows(None))


class CheapCompute(nn.Module):
    """The small MLP for every cell."""

    def __init__(self, small: CellMLP):
        super().__init__()
        self.small = small

    def forward(self, big_rows: RowSource, small_rows: RowSource) -> Tensor:
        return self.small(small_rows(None))


class NoRouting(nn.Module):
    """Both for every cell, ungated."""

    def __init__(self, big: CellMLP, small: CellMLP):
        super().__init__()
        self.big, self.small = big, small

    def forward(self, big_rows: RowSource, small_rows: RowSource) -> Tensor:
        return self.big(big_rows(None)) + self.small(small_rows(None))


def unrouted_cells(config: AttentionRoutingConfig, *, encodes: bool, scores: bool) -> nn.Module:
    """The baseline that ``config`` names.

    Args:
        config: The model's.
        encodes: The model has an encoder.
        scores: It has an attention head.
    """
    if config.dense:
        return FullCompute(big_mlp(config, dense_width(config, encodes=encodes, scores=scores)))
    if config.compute == "full":
        return FullCompute(big_mlp(config))
    if config.compute == "cheap":
        return CheapCompute(small_mlp(config))
    return NoRouting(big_mlp(config), small_mlp(config))
