"""Softmax over all experts, then the best K (Shazeer et al. 2017; Fedus et al. 2021, "Switch Transformers")."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.checks import check_positive
from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.routers.noise import noisy_top_k
from moezoo.moe.types import Routing


class SoftmaxTopKRouter(Router):
    """Linear logits, softmax, top-k.

    Args:
        noise_std: Standard deviation of Gaussian noise added to the logits in training.
        jitter: Multiplies the router's input by U(1 - jitter, 1 + jitter) in training (Switch, section 2.2).

    The remaining arguments are :class:`Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0}

    def __init__(self, dim: int, num_experts: int, *, noise_std: float = 0.0, jitter: float = 0.0, **shared):
        super().__init__(dim, num_experts, **shared)
        self.noise_std = check_positive("noise_std", noise_std, zero=True)
        self.jitter = check_positive("jitter", jitter, zero=True)
        self.weight = linear_weight(num_experts, dim)

    def route(self, x_TD: Tensor) -> Routing:
        if self.training and self.jitter:
            x_TD = x_TD * torch.empty_like(x_TD).uniform_(1.0 - self.jitter, 1.0 + self.jitter)
        clean_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
        return noisy_top_k(clean_TE, self.noise_std if self.training else 0.0, self.top_k, self.normalize)
