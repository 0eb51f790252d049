"""MLP experts with a norm and a residual connection of their own."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_positive
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.experts.stacked import StackedMLP
from moezoo.moe.types import Routing


class ResidualMLP(StackedMLP):
    """``x + MLP(LayerNorm(x))`` per expert, on every path of :class:`StackedMLP`.

    Args:
        eps: Of the norm.

    The remaining arguments are :class:`StackedMLP`'s.
    """

    def __init__(self, dim: int, hidden_dim: int, num_experts: int, *, eps: float = 1e-5, **shared):
        super().__init__(dim, hidden_dim, num_experts, **shared)
        self.eps = check_positive("eps", eps)
        self.norm_weight = nn.Parameter(torch.ones(num_experts, dim))
        self.norm_bias = nn.Parameter(torch.zeros(num_experts, dim))

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        norm_ND = F.layer_norm(x_ND, (self.dim,), eps=self.eps)
        weight_ND, bias_ND = (p.index_select(0, plan.expert_index) for p in (self.norm_weight, self.norm_bias))
        return x_ND + super().forward(torch.addcmul(bias_ND, norm_ND, weight_ND), plan)

    def choose_path(self, x_TD: Tensor, routing: Routing) -> str:
        path = super().choose_path(x_TD, routing)
        # The MLPs may be frozen where the norms before them learn.
        learns = torch.is_grad_enabled() and (self.norm_weight.requires_grad or self.norm_bias.requires_grad)
        return "sorted" if path == "packed" and learns else path
