"""Shared experts: always on, each behind a sigmoid gate of its own (DeepSeekMoE's idea, Qwen2-MoE's gate)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.activations import get_activation
from moezoo.moe.checks import check_int, check_probability
from moezoo.moe.experts.stacked import init_linear_


class SharedExperts(nn.Module):
    """``sum_m sigmoid(gate(x))_m * MLP_m(x)`` over M shared experts, computed as one wide MLP.

    The gates are independent of the routed experts' softmax, so routed experts never compete with shared ones.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        activation: str = "gelu",
        dropout: float = 0.0,
        gated: bool = False,
    ):
        super().__init__()
        self.dim, self.hidden_dim = dim, hidden_dim
        self.num_experts = check_int("num_shared_experts", num_experts, low=1)
        self.act = get_activation(activation)
        self.dropout = check_probability("dropout", dropout)
        self.gated = gated
        width = 2 * hidden_dim if gated else hidden_dim
        self.gate = nn.Linear(dim, num_experts)
        self.w_in = nn.Parameter(torch.empty(num_experts, width, dim))
        self.b_in = nn.Parameter(torch.empty(num_experts, width))
        self.w_out = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.b_out = nn.Parameter(torch.empty(num_experts, dim))
        nn.init.trunc_normal_(self.gate.weight, std=0.02)
        nn.init.zeros_(self.gate.bias)
        init_linear_(self.w_in, self.b_in)
        init_linear_(self.w_out, self.b_out)

    def forward(self, x_TD: Tensor) -> Tensor:
        h_TMW = F.linear(x_TD, self.w_in.flatten(0, 1), self.b_in.flatten()).unflatten(-1, (self.num_experts, -1))
        if self.gated:
            gate, up = h_TMW.chunk(2, dim=-1)
            h_TMH = self.act(gate) * up
        else:
            h_TMH = self.act(h_TMW)
        h_TMH = F.dropout(h_TMH, self.dropout, self.training)
        share_TM = self.gate(x_TD).sigmoid()
        # Scaling the hidden units gates each expert before one product sums them all.
        w_D_MH = self.w_out.transpose(0, 1).flatten(1)
        return F.linear((h_TMH * share_TM[..., None]).flatten(-2), w_D_MH) + share_TM @ self.b_out

    def flops_per_row(self) -> int:
        """FLOPs of one token: both products, the gate, and the gated bias."""
        return 2 * (self.w_in.numel() + self.w_out.numel() + self.gate.weight.numel() + self.b_out.numel())
