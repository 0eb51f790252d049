"""Cosine routing (Chi et al. 2022, "On the Representation Collapse of Sparse Mixture of Experts", section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_bool, check_int, check_positive
from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.routers.noise import noisy_top_k
from moezoo.moe.types import Routing

MAX_SCALE = 100.0


class CosineRouter(Router):
    """``logits = scale * cos(W x, key_e)``, then softmax top-k; as in Swin-MoE (Hwang et al. 2022, "Tutel").

    The scale, one over the temperature, is learned from 2 on and clamped to 100.

    Args:
        projection_dim: Width of the keys; ``None`` means the smaller of 256 and ``dim``.
        sigma: In training, Gaussian noise of standard deviation sigma / E on the logits; 1 in Swin-MoE.
        batch_priority: Full experts keep the tokens with the largest best probability, not the first ones, as in
            Swin-MoE: see :func:`~moezoo.moe.dispatch.capacity.apply_capacity`.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"keys": 0}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        projection_dim: int | None = None,
        sigma: float = 0.0,
        batch_priority: bool = False,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        self.sigma = check_positive("sigma", sigma, zero=True)
        self.priority = "score" if check_bool("batch_priority", batch_priority) else "choice"
        width = min(256, dim) if projection_dim is None else check_int("projection_dim", projection_dim, low=1)
        self.projection = linear_weight(width, dim)
        self.keys = linear_weight(num_experts, width)
        self.log_scale = nn.Parameter(torch.full((1,), math.log(2.0)))

    def route(self, x_TD: Tensor) -> Routing:
        query_TP = F.normalize(F.linear(x_TD, self.projection.to(x_TD.dtype)), dim=-1)
        keys_EP = F.normalize(self.keys.to(x_TD.dtype), dim=-1)
        scale = self.log_scale.to(x_TD.dtype).clamp(max=math.log(MAX_SCALE)).exp()
        noise_std = self.sigma / self.num_experts if self.training else 0.0
        return noisy_top_k(F.linear(query_TP, keys_EP) * scale, noise_std, self.top_k, self.normalize)
