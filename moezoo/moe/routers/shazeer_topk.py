"""Top-k with a learned amount of noise (Shazeer et al. 2017, "Outrageously Large Neural Networks", eq. 3-5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_positive
from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.routers.noise import noisy_top_k
from moezoo.moe.types import Routing


class ShazeerTopKRouter(Router):
    """``H = W x + N(0, 1) * softplus(W_noise x)``, the best K of H, then a softmax over these.

    Noise acts in training only. A softmax over the chosen logits is ``normalize=True``, the default for ``top_k > 1``;
    with one expert it would be the constant 1, so the weight is then its probability among all.

    Args:
        noise_floor: Added to the softplus, so that noise never dies out.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0, "noise_weight": 0}

    def __init__(self, dim: int, num_experts: int, *, noise_floor: float = 1e-2, **shared):
        super().__init__(dim, num_experts, **shared)
        self.noise_floor = check_positive("noise_floor", noise_floor, zero=True)
        self.weight = linear_weight(num_experts, dim)
        self.noise_weight = nn.Parameter(torch.zeros(num_experts, dim))

    def route(self, x_TD: Tensor) -> Routing:
        clean_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
        if not self.training:
            return Routing.from_logits(clean_TE, self.top_k, self.normalize)
        std_TE = F.softplus(F.linear(x_TD, self.noise_weight.to(x_TD.dtype))) + self.noise_floor
        return noisy_top_k(clean_TE, std_TE, self.top_k, self.normalize)

    def flops(self, routing: Routing) -> int:
        return super().flops(routing) if routing.noise_std is not None else super().flops(routing) // 2
