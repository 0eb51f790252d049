"""MLP experts with norms inside and a residual connection of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.activations import ACTIVATIONS
from moezoo.moe.checks import check_choice, check_positive, check_probability
from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.by_expert import PATHS, linear_by_expert
from moezoo.moe.experts.mlp_expert import RESIDUALS
from moezoo.moe.experts.stacked import init_linear_
from moezoo.moe.paths.static import without_dropped


class ResidualMLP(Experts):
    """``drop(act(norm2(w_out drop(act(norm1(w_in x + b_in))) + b_out))) + w_res x + b_res`` per expert.

    Args:
        residual: ``linear`` is the above, ``identity`` adds x as it is.
        eps: Of the norms.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``relu`` or ``silu``.
        dropout: After both activations, in training.

    Raises:
        ConfigError: An argument is out of range.
    """

    paths = PATHS
    stacked = True

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        residual: str = "linear",
        eps: float = 1e-5,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__(dim, hidden_dim, num_experts)
        self.residual = check_choice("residual", residual, RESIDUALS)
        self.eps = check_positive("eps", eps)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.dropout = check_probability("dropout", dropout)
        E, H, D = num_experts, hidden_dim, dim
        self.w_in = nn.Parameter(torch.empty(E, H, D))
        self.b_in = nn.Parameter(torch.empty(E, H))
        self.norm1_weight = nn.Parameter(torch.ones(E, H))
        self.norm1_bias = nn.Parameter(torch.zeros(E, H))
        self.w_out = nn.Parameter(torch.empty(E, D, H))
        self.b_out = nn.Parameter(torch.empty(E, D))
        self.norm2_weight = nn.Parameter(torch.ones(E, D))
        self.norm2_bias = nn.Parameter(torch.zeros(E, D))
        init_linear_(self.w_in, self.b_in)
        init_linear_(self.w_out, self.b_out)
        self.w_res: nn.Parameter | None = None
        self.b_res: nn.Parameter | None = None
        if residual == "linear":
            self.w_res = nn.Parameter(torch.empty(E, D, D))
            self.b_res = nn.Parameter(torch.empty(E, D))
            init_linear_(self.w_res, self.b_res)

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        x_ND = without_dropped(x_ND, plan)
        h_NH = linear_by_expert(x_ND, self.w_in, self.b_in, plan)
        h_NH = self._norm_act_drop(h_NH, self.norm1_weight, self.norm1_bias, plan)
        y_ND = linear_by_expert(h_NH, self.w_out, self.b_out, plan)
        y_ND = self._norm_act_drop(y_ND, self.norm2_weight, self.norm2_bias, plan)
        return y_ND + (x_ND if self.w_res is None else linear_by_expert(x_ND, self.w_res, self.b_res, plan))

    def _norm_act_drop(self, h_NF: Tensor, weight_EF: Tensor, bias_EF: Tensor, plan: Plan) -> Tensor:
        norm_NF = F.layer_norm(h_NF, h_NF.shape[-1:], eps=self.eps)
        # Each row has the scale and shift of its own expert, so that one call norms the rows of all.
        weight_NF, bias_NF = (p.index_select(0, plan.expert_index) for p in (weight_EF, bias_EF))
        h_NF = ACTIVATIONS[self.activation](torch.addcmul(bias_NF, norm_NF, weight_NF))
        return F.dropout(h_NF, self.dropout, self.training)

    def flops(self, rows: Sequence[int]) -> int:
        products = [w for w in (self.w_in, self.w_out, self.w_res) if w is not None]
        return 2 * sum(rows) * sum(w[0].numel() for w in products)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, residual={self.residual!r}"
