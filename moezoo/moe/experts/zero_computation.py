"""Experts that compute nearly nothing (Jin et al. 2024, "MoE++"): easy tokens may skip the work."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ZeroExpert(nn.Module):
    """Gives 0: the token is discarded."""

    def forward(self, x_ND: Tensor) -> Tensor:
        return torch.zeros_like(x_ND)


class CopyExpert(nn.Module):
    """Gives x: the token is skipped."""

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND


class ConstantExpert(nn.Module):
    """Gives ``a x + b v`` with ``a, b = softmax(W x)``: the token is replaced by a learned vector, more or less."""

    def __init__(self, dim: int):
        super().__init__()
        self.gate = nn.Linear(dim, 2, bias=False)
        self.vector = nn.Parameter(torch.empty(dim))
        nn.init.trunc_normal_(self.gate.weight, std=0.02)
        nn.init.trunc_normal_(self.vector, std=0.02)

    def forward(self, x_ND: Tensor) -> Tensor:
        keep, replace = self.gate(x_ND).softmax(-1).unbind(-1)
        return keep[:, None] * x_ND + replace[:, None] * self.vector
