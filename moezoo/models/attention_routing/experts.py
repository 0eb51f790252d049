"""The two MLPs of unequal size."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.models.attention_routing.costs import big_in_dim, small_in_dim


class CellMLP(nn.Module):
    """(n, in_dim) rows, one a cell, to (n, out_dim) embeddings.

    Args:
        in_dim: Numbers in a row.
        hidden_dim: Width of each hidden layer.
        layers: Hidden layers.
        out_dim: Width of the embedding.
    """

    is_expert = True
    """Its parameters are an expert's, also where no MoE layer is round it."""

    def __init__(self, in_dim: int, hidden_dim: int, layers: int, out_dim: int):
        super().__init__()
        widths = [in_dim, *[hidden_dim] * layers, out_dim]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(widths))

    @property
    def hidden_chain(self) -> list[nn.Module]:
        """The layers in their order, with nothing but functions of single numbers between them."""
        return list(self.layers)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = layer(x).relu_()
        return self.layers[-1](x)


def big_mlp(config: AttentionRoutingConfig, hidden_dim: int | None = None) -> CellMLP:
    """The expensive one; ``hidden_dim`` in place of the configuration's."""
    hidden_dim = config.big_hidden_dim if hidden_dim is None else hidden_dim
    return CellMLP(big_in_dim(config), hidden_dim, config.big_layers, config.embed_dim)


def small_mlp(config: AttentionRoutingConfig) -> CellMLP:
    """The cheap one."""
    return CellMLP(small_in_dim(config), config.small_hidden_dim, config.small_layers, config.embed_dim)
