"""What every aggregator is."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Aggregator(nn.Module, ABC):
    """(B, N, D) embeddings of the cells, in the order of the grid, to (B, out_dim).

    Args:
        dim: D.
        num_cells: N.
        out_dim: Width of the result.
    """

    needs_scores = False
    """Whether :meth:`forward` uses the cells' attention scores; a model without any then builds what makes them."""

    def __init__(self, dim: int, num_cells: int, out_dim: int):
        super().__init__()
        self.dim, self.num_cells, self.out_dim = dim, num_cells, out_dim

    @abstractmethod
    def forward(self, tokens: Tensor, scores: Tensor | None = None) -> Tensor:
        """
        Args:
            tokens: (B, N, D).
            scores: (B, N) between 0 and 1; given where :attr:`needs_scores`.
        """

    def forward_split(self, high: Tensor, low: Tensor, mask: Tensor, scores: Tensor | None = None) -> Tensor:
        """The same of embeddings that were computed apart.

        Args:
            high: (B, N, D) what the big MLP gives; looked at where ``mask`` is 1.
            low: (B, N, D) what the small MLP gives; looked at where ``mask`` is 0.
            mask: (B, N) of 0 and 1; its gradient, if it carries one, is used.
            scores: As of :meth:`forward`.
        """
        mask = mask[..., None]
        return self(high * mask + low * (1 - mask), scores)

    def extra_repr(self) -> str:
        return f"{self.num_cells} x {self.dim} -> {self.out_dim}"
