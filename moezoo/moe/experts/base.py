"""What the layer asks of its experts."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from moezoo.moe.checks import check_int
from moezoo.moe.dispatch.plan import Plan


class Experts(nn.Module, ABC):
    """E experts of one kind. Every expert must stay in the autograd graph, used or not (zeros, never ``None``)."""

    def __init__(self, dim: int, hidden_dim: int, num_experts: int):
        super().__init__()
        self.dim = check_int("dim", dim, low=1)
        self.hidden_dim = check_int("hidden_dim", hidden_dim, low=1)
        self.num_experts = check_int("num_experts", num_experts, low=1)

    @abstractmethod
    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        """(N, D) to (N, D): row i through expert ``plan.expert_index[i]``; rows are sorted by expert."""

    @abstractmethod
    def flops_per_row(self) -> int:
        """FLOPs (2 x multiply-adds of the matrix products) that one row costs in the forward pass."""

    def extra_repr(self) -> str:
        return f"{self.num_experts} x ({self.dim} -> {self.hidden_dim} -> {self.dim})"
