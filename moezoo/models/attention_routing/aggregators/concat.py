"""Every cell has weights of its own."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.models.attention_routing.aggregators.base import Aggregator


class Concat(Aggregator):
    """The embeddings one after the other, and a linear layer. Where something is matters."""

    def __init__(self, dim: int, num_cells: int, out_dim: int):
        super().__init__(dim, num_cells, out_dim)
        self.proj = nn.Linear(num_cells * dim, out_dim)

    def forward(self, tokens: Tensor, scores: Tensor | None = None) -> Tensor:
        return self.proj(tokens.flatten(1)).relu()
