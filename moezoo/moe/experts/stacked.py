"""MLP and GLU experts with stacked weights (E, out, in), so that they load, shard and train as single tensors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moezoo.errors import InputError
from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.checks import check_choice, check_probability
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.paths import RUN, MLPStack, choose_path
from moezoo.moe.paths.packs import KeepsPacks, PackCache
from moezoo.moe.paths.stack import autocasts
from moezoo.moe.types import Routing


def init_linear_(weight: Tensor, bias: Tensor | None) -> None:
    """``nn.Linear``'s uniform initialisation for a stack (…, out, in); biases start at zero."""
    nn.init.uniform_(weight, -(weight.shape[-1] ** -0.5), weight.shape[-1] ** -0.5)
    if bias is not None:
        nn.init.zeros_(bias)


class StackedMLP(KeepsPacks, Experts):
    """``w_out act(w_in x + b_in) + b_out`` per expert.

    Args:
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``relu`` or ``silu``.
        dropout: On the hidden units, in training.
    """

    gated = False
    stacked = True
    paths = tuple(RUN)

    def __init__(self, dim: int, hidden_dim: int, num_experts: int, *, activation: str = "gelu", dropout: float = 0.0):
        super().__init__(dim, hidden_dim, num_experts)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.dropout = check_probability("dropout", dropout)
        width = 2 * hidden_dim if self.gated else hidden_dim
        self.w_in = nn.Parameter(torch.empty(num_experts, width, dim))
        self.b_in = nn.Parameter(torch.empty(num_experts, width))
        self.w_out = nn.Parameter(torch.empty(num_experts, dim, hidden_dim))
        self.b_out = nn.Parameter(torch.empty(num_experts, dim))
        init_linear_(self.w_in, self.b_in)
        init_linear_(self.w_out, self.b_out)
        self.packs = PackCache()

    def stack(self) -> MLPStack:
        """What the paths compute with."""
        dropout, packs = (self.dropout, None) if self.training else (0.0, self.packs)
        return MLPStack(
            self.w_in, self.b_in, self.w_out, self.b_out, self.activation, self.gated, dropout=dropout, packs=packs
        )

    def choose_path(self, x_TD: Tensor, routing: Routing) -> str:
        return choose_path(x_TD, routing, self.stack())

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        if x_ND.dtype != self.w_in.dtype and not autocasts(x_ND):
            raise InputError(
                f"tokens of {x_ND.dtype} cannot meet experts of {self.w_in.dtype}: convert one of them, or call the "
                "layer under torch.autocast."
            )
        return RUN[plan.path](x_ND, plan, self.stack())

    def flops(self, rows: Sequence[int]) -> int:
        return 2 * sum(rows) * (self.w_in[0].numel() + self.w_out[0].numel())


class StackedGLU(StackedMLP):
    """``w_out (act(g) * u) + b_out`` with ``g, u = w_in x + b_in`` split in halves (Shazeer 2020, "GLU variants")."""

    gated = True
