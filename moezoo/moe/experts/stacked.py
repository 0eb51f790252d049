"""MLP and GLU experts with stacked weights (E, out, in), so that they load, shard and train as single tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.activations import get_activation
from moezoo.moe.checks import check_probability
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.grouped import grouped_linear


def init_linear_(weight: Tensor, bias: Tensor | None) -> None:
    """``nn.Linear``'s uniform initialisation for a stack (…, out, in); biases start at zero."""
    nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)
    if bias is not None:
        nn.init.zeros_(bias)


class StackedMLP(Experts):
    """``w_out act(w_in x + b_in) + b_out`` per expert.

    Args:
        activation: ``gelu``, ``relu`` or ``silu``.
        dropout: On the hidden units, in training.
    """

    gated = False

    def __init__(self, dim: int, hidden_dim: int, num_experts: int, *, activation: str = "gelu", dropout: float = 0.0):
        super().__init__(dim, hidden_dim, num_experts)
        self.activation = activation
        self.act = get_activation(activation)
        self.dropout = check_probability("dropout", dropout)
        width = 2 * hidden_dim if self.gated else hidden_dim
        self.w_in = nn.Parameter(torch.empty(num_experts, width, dim))
        self.b_in = nn.Parameter(torch.empty(num_experts, width))
        self.w_out = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.b_out = nn.Parameter(torch.empty(num_experts, dim))
        init_linear_(self.w_in, self.b_in)
        init_linear_(self.w_out, self.b_out)

    def hidden(self, h: Tensor) -> Tensor:
        """The nonlinearity between the two products, with dropout."""
        return F.dropout(self.act(h), self.dropout, self.training)

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        if plan.static:
            h_NH = self.hidden(grouped_linear(x_ND, self.w_in, self.b_in, plan))
            return grouped_linear(h_NH, self.w_out, self.b_out, plan)
        # unbind, not indexing: its backward fills idle experts with zeros in one pass over the stack.
        weights = zip(*(p.unbind(0) for p in (self.w_in, self.b_in, self.w_out, self.b_out)), strict=True)
        rows = x_ND.split(plan.counts.tolist())
        used = [(x, w) for x, w in zip(rows, weights, strict=True) if len(x) or not len(x_ND)]
        return torch.cat([F.linear(self.hidden(F.linear(x, w1, b1)), w2, b2) for x, (w1, b1, w2, b2) in used])

    def flops_per_row(self) -> int:
        return 2 * (self.w_in[0].numel() + self.w_out[0].numel())


class StackedGLU(StackedMLP):
    """``w_out (act(g) * u) + b_out`` with ``g, u = w_in x + b_in`` split in halves (Shazeer 2020, "GLU variants")."""

    gated = True

    def hidden(self, h: Tensor) -> Tensor:
        gate, up = h.chunk(2, dim=-1)
        return F.dropout(self.act(gate) * up, self.dropout, self.training)
