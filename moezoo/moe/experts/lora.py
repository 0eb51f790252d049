"""Experts that are low-rank changes of one frozen MLP (Hu et al. 2022, "LoRA", one pair of matrices per expert)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from moezoo.errors import InputError
from moezoo.moe.checks import check_int, check_positive
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.by_expert import PATHS, linear_by_expert
from moezoo.moe.experts.mlp_expert import MLPExpert
from moezoo.moe.experts.stacked import init_linear_
from moezoo.moe.paths.static import without_dropped


class LoRAExperts(Experts):
    """An MLP that all experts share, with ``W x`` become ``W x + alpha / rank * up (down x)`` in both its products.

    ``up`` starts at zero, so that every expert starts as the shared MLP. That one has parameters that do not learn
    (``requires_grad=False``): they are stored, moved and counted with the others, and optimisers leave them alone.
    :meth:`load_base` gives it weights.

    Args:
        rank: Of a change.
        alpha: ``None`` means ``rank``, a scale of 1.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``relu`` or ``silu``.
        dropout: On the hidden units, in training.
    """

    paths = PATHS
    stacked = True

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        rank: int = 8,
        alpha: float | None = None,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__(dim, hidden_dim, num_experts)
        self.rank = check_int("rank", rank, low=1)
        self.scale = 1.0 if alpha is None else check_positive("alpha", alpha) / rank
        self.base = MLPExpert(dim, hidden_dim, activation=activation, dropout=dropout).requires_grad_(False)
        self.down_in = nn.Parameter(torch.empty(num_experts, rank, dim))
        self.up_in = nn.Parameter(torch.zeros(num_experts, hidden_dim, rank))
        self.down_out = nn.Parameter(torch.empty(num_experts, rank, hidden_dim))
        self.up_out = nn.Parameter(torch.zeros(num_experts, dim, rank))
        init_linear_(self.down_in, None)
        init_linear_(self.down_out, None)

    @torch.no_grad()
    def load_base(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor) -> None:
        """Copy the weights of an MLP into the shared one: (H, D), (H,), (D, H) and (D,).

        Raises:
            InputError: A shape does not fit; nothing is copied.
        """
        fc1, fc2 = self.base.fc1, self.base.fc2
        pairs = {
            "w_in": (fc1.weight, w_in),
            "b_in": (fc1.bias, b_in),
            "w_out": (fc2.weight, w_out),
            "b_out": (fc2.bias, b_out),
        }
        for name, (own, given) in pairs.items():
            if own.shape != given.shape:
                raise InputError(f"{name} must be {tuple(own.shape)}, got {tuple(given.shape)}")
        for own, given in pairs.values():
            own.copy_(given)

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        x_ND = without_dropped(x_ND, plan)
        h_NH = self.base.fc1(x_ND) + self._change(x_ND, self.down_in, self.up_in, plan)
        h_NH = self.base.drop1(self.base.act(h_NH))
        return self.base.fc2(h_NH) + self._change(h_NH, self.down_out, self.up_out, plan)

    def _change(self, x_ND: Tensor, down: Tensor, up: Tensor, plan: Plan) -> Tensor:
        return self.scale * linear_by_expert(linear_by_expert(x_ND, down, None, plan), up, None, plan)

    def flops(self, rows: Sequence[int]) -> int:
        changes = sum(p[0].numel() for p in (self.down_in, self.up_in, self.down_out, self.up_out))
        return self.base.flops(sum(rows)) + 2 * sum(rows) * changes

    def expert_parameters(self) -> list[int]:
        stacks = (self.down_in, self.up_in, self.down_out, self.up_out)
        own = sum(p.numel() // self.num_experts for p in stacks)
        return [own] * self.num_experts

    def frozen_parameters(self) -> list[nn.Parameter]:
        return list(self.base.parameters())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, rank={self.rank}, scale={self.scale}"
