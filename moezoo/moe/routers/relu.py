"""ReMoE (Wang et al. 2024, "Fully Differentiable Mixture-of-Experts with ReLU Routing"): a gate that can be zero."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.checks import check_positive
from moezoo.moe.ranks import token_mean
from moezoo.moe.routers.adaptive import AdaptiveRouter
from moezoo.moe.routers.base import linear_weight, shares
from moezoo.moe.types import Routing


class ReLURouter(AdaptiveRouter):
    """``gate = relu(W x)``: a token uses the experts whose gate is above zero, from none to all.

    Training steers the mean number to ``top_k`` by an L1 penalty whose coefficient
    :func:`~moezoo.moe.routers.step_routers` multiplies or divides by ``l1_growth`` after each optimiser step. The
    penalty, balanced by each expert's load (section 3.5), is :attr:`Routing.penalty`:
    ``coefficient * E * sum_i mean_t(gate_ti) * count_i / (T * K)``.

    Args:
        l1_coefficient: The coefficient's first value.
        l1_growth: Its change per step; above 1.
        normalize: Divide a token's gates by their sum; ``None`` means ``False``, as in the paper.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    coefficient: Tensor
    """() float32 whatever the module's dtype; no gradient."""

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        l1_coefficient: float = 1e-8,
        l1_growth: float = 1.2,
        normalize: bool | None = None,
        **shared,
    ):
        super().__init__(dim, num_experts, normalize=normalize or False, **shared)
        self.l1_growth = 1.0 + check_positive("l1_growth - 1", check_positive("l1_growth", l1_growth) - 1.0)
        self.weight = linear_weight(num_experts, dim)
        self.register_buffer("coefficient", torch.tensor(check_positive("l1_coefficient", l1_coefficient, zero=True)))

    def route(self, x_TD: Tensor) -> Routing:
        logits_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
        gate_TE = logits_TE.relu()
        routing = Routing.from_mask(gate_TE > 0, shares(gate_TE) if self.normalize else gate_TE, logits_TE)
        if not self.training:
            return routing
        load_E = token_mean(routing.counts(dropped=True), routing.num_tokens, self.ranks) / self.top_k
        mean_E = token_mean(gate_TE.sum(0), routing.num_tokens, self.ranks)
        return dataclasses.replace(routing, penalty=self.coefficient * self.num_experts * (mean_E * load_E).sum())

    def adapt(self, counts_E: Tensor, num_tokens: Tensor) -> None:
        # Sparsity below 1 - K / E means more than K experts per token.
        too_many = counts_E.sum() > self.top_k * num_tokens
        self.coefficient *= torch.where(too_many, self.l1_growth, 1.0 / self.l1_growth)
