"""Threshold routing: an expert is used where its score exceeds a threshold that is learned straight-through."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int, check_positive
from moezoo.moe.routers.base import Router, first_choices, linear_weight, shares
from moezoo.moe.types import Routing


class ThresholdRouter(Router):
    """``s = W x``; token t uses the experts with ``s > theta``, one learned ``theta`` per expert.

    The weight is ``1[s > theta] + (sig - sig.detach())`` with ``sig = sigmoid((s - theta) / temperature)``: forward it
    is the hard decision, bit for bit, in training and evaluation; backward it has the sigmoid's slope, also where the
    expert was not used (Bengio et al. 2013, "straight-through"). A token below every threshold uses the experts it
    comes nearest to.

    Args:
        threshold_init: Every threshold's first value.
        temperature: Of the sigmoid whose slope is learned by.
        min_experts: The least experts of a token; ``None`` means ``top_k``, and 0 lets a token go without.
        normalize: Divide a token's weights by their sum; ``None`` means ``top_k > 1``.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0, "threshold": 0}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        threshold_init: float = 0.0,
        temperature: float = 1.0,
        min_experts: int | None = None,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        self.temperature = check_positive("temperature", temperature)
        self.min_experts = (
            self.top_k if min_experts is None else check_int("min_experts", min_experts, low=0, high=num_experts)
        )
        self.weight = linear_weight(num_experts, dim)
        self.threshold = nn.Parameter(torch.full((num_experts,), float(threshold_init)))

    def set_num_experts(self, num_experts: int) -> None:
        if num_experts < self.min_experts:
            raise ConfigError(f"{num_experts} experts are too few: the router has min_experts={self.min_experts}.")
        super().set_num_experts(num_experts)

    def route(self, x_TD: Tensor) -> Routing:
        logits_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
        margin_TE = logits_TE - self.threshold.to(x_TD.dtype)
        chosen_TE = margin_TE > 0
        if self.min_experts:
            chosen_TE = chosen_TE.scatter(1, first_choices(margin_TE, self.min_experts), True)
        soft_TE = (margin_TE / self.temperature).sigmoid()
        # The bracket is exactly zero; without it, adding and subtracting would round.
        weight_TE = chosen_TE.to(x_TD.dtype) + (soft_TE - soft_TE.detach())
        if self.normalize:
            weight_TE = shares(weight_TE)
        return Routing.from_mask(chosen_TE, weight_TE, logits_TE, margin_TE)
