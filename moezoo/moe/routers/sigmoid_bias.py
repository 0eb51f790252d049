"""Balance without a loss (Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing"; DeepSeek-V3, eq. 12-16)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_positive
from moezoo.moe.routers.adaptive import AdaptiveRouter
from moezoo.moe.routers.base import first_choices, linear_weight, shares
from moezoo.moe.types import Routing


class SigmoidBiasRouter(AdaptiveRouter):
    """``s = sigmoid(W x)``; the best K of ``s + bias`` are chosen, their weights are ``s``, without the bias.

    After each optimiser step :func:`~moezoo.moe.routers.step_routers` moves the bias by
    ``bias_rate * sign(mean load - load)``. ``probs`` are ``s`` divided by its sum (DeepSeek-V3, eq. 19).

    Args:
        bias_rate: Size of one move of the bias; 0.001 in the papers.
        recentre: Subtract the mean of the move, so that the biases keep their sum (torchtitan's variant).
        route_scale: Multiplies all weights, after they were normalised.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    bias: Tensor
    """(E,) float32 whatever the module's dtype; no gradient."""

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0, "bias": 0}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        bias_rate: float = 1e-3,
        recentre: bool = False,
        route_scale: float = 1.0,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        self.bias_rate = check_positive("bias_rate", bias_rate, zero=True)
        if not isinstance(recentre, bool):
            raise ConfigError(f"recentre={recentre!r} is not allowed: it must be True or False.")
        self.recentre = recentre
        self.route_scale = check_positive("route_scale", route_scale)
        self.weight = linear_weight(num_experts, dim)
        self.register_buffer("bias", torch.zeros(num_experts))

    def select(self, biased_TE: Tensor) -> Tensor:
        """(T, K) experts chosen by their biased scores."""
        return first_choices(biased_TE, self.top_k)

    def route(self, x_TD: Tensor) -> Routing:
        logits_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
        score_TE = logits_TE.sigmoid()
        expert_TK = self.select(score_TE.detach() + self.bias)
        weight_TK = score_TE.gather(1, expert_TK)
        if self.normalize:
            weight_TK = shares(weight_TK)
        return Routing.from_choice(expert_TK, weight_TK * self.route_scale, logits_TE, probs_TE=shares(score_TE))

    def adapt(self, counts_E: Tensor, num_tokens: Tensor) -> None:
        # Whole numbers, E times over, so that an even load is exactly even.
        move_E = self.bias_rate * (counts_E.sum() - self.num_experts * counts_E).sign().to(self.bias.dtype)
        self.bias += move_E - move_E.mean() if self.recentre else move_E
