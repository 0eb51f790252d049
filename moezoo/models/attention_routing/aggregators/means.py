"""Means over the cells. Where something is does not matter."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moezoo.models.attention_routing.aggregators.base import Aggregator


class Mean(Aggregator):
    """The mean embedding, and a linear layer."""

    def __init__(self, dim: int, num_cells: int, out_dim: int):
        super().__init__(dim, num_cells, out_dim)
        self.proj = nn.Linear(dim, out_dim)

    def forward(self, tokens: Tensor, scores: Tensor | None = None) -> Tensor:
        return self.proj(self.pool(tokens, scores)).relu()

    def pool(self, tokens: Tensor, scores: Tensor | None) -> Tensor:
        """(B, N, D) to (B, D)."""
        return tokens.mean(1)


class WeightedMean(Mean):
    """The mean weighted by the attention scores, which so learn from what the cells are worth."""

    needs_scores = True

    def pool(self, tokens: Tensor, scores: Tensor | None) -> Tensor:
        assert scores is not None, "weighted_mean needs scores"
        least = torch.finfo(scores.dtype).tiny  # of scores in half precision all may be zero
        return weighted_sum(tokens, scores / scores.sum(1, keepdim=True).clamp_min(least))


class AttentionPool(Mean):
    """The mean weighted by a softmax over what a learned query finds in the embeddings themselves."""

    def __init__(self, dim: int, num_cells: int, out_dim: int):
        super().__init__(dim, num_cells, out_dim)
        self.query = nn.Linear(dim, 1, bias=False)

    def pool(self, tokens: Tensor, scores: Tensor | None) -> Tensor:
        return weighted_sum(tokens, self.query(tokens).squeeze(-1).softmax(1))


def weighted_sum(tokens: Tensor, weights: Tensor) -> Tensor:
    """(B, N, D) and (B, N) to (B, D)."""
    return torch.matmul(weights[:, None].to(tokens.dtype), tokens).squeeze(1)
