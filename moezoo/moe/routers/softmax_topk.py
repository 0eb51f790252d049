"""Softmax over all experts, then the best K (Shazeer et al. 2017; Fedus et al. 2021, "Switch Transformers")."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_positive
from moezoo.moe.routers.base import Router
from moezoo.moe.types import Routing


class SoftmaxTopKRouter(Router):
    """Linear logits, softmax, top-k.

    Args:
        noise_std: Standard deviation of Gaussian noise added to the logits in training.
        jitter: Multiplies the router's input by U(1 - jitter, 1 + jitter) in training (Switch, section 2.2).

    The remaining arguments are :class:`Router`'s.
    """

    def __init__(self, dim: int, num_experts: int, *, noise_std: float = 0.0, jitter: float = 0.0, **shared):
        super().__init__(dim, num_experts, **shared)
        self.noise_std = check_positive("noise_std", noise_std, zero=True)
        self.jitter = check_positive("jitter", jitter, zero=True)
        self.weight = nn.Parameter(torch.empty(num_experts, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def route(self, x_TD: Tensor) -> Routing:
        weight_ED = self.weight.to(x_TD.dtype)
        if self.training and self.jitter:
            x_TD = x_TD * torch.empty_like(x_TD).uniform_(1.0 - self.jitter, 1.0 + self.jitter)
        clean_TE = F.linear(x_TD, weight_ED)
        noisy = self.training and self.noise_std > 0
        logits_TE = clean_TE + torch.randn_like(clean_TE) * self.noise_std if noisy else clean_TE
        return Routing.from_logits(logits_TE, self.top_k, self.normalize, clean_logits_TE=clean_TE)
