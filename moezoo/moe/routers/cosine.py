"""Cosine routing (Chi et al. 2022, "On the Representation Collapse of Sparse Mixture of Experts", section 4.1)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_int
from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.types import Routing

MAX_SCALE = 100.0


class CosineRouter(Router):
    """``logits = scale * cos(W x, key_e)``, then softmax top-k; as in Swin-MoE (Hwang et al. 2022, "Tutel").

    The scale, one over the temperature, is learned from 2 on and clamped to 100.

    Args:
        projection_dim: Width of the keys; ``None`` means the smaller of 256 and ``dim``.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"keys": 0}

    def __init__(self, dim: int, num_experts: int, *, projection_dim: int | None = None, **shared):
        super().__init__(dim, num_experts, **shared)
        width = min(256, dim) if projection_dim is None else check_int("projection_dim", projection_dim, low=1)
        self.projection = linear_weight(width, dim)
        self.keys = linear_weight(num_experts, width)
        self.log_scale = nn.Parameter(torch.full((1,), math.log(2.0)))

    def route(self, x_TD: Tensor) -> Routing:
        query_TP = F.normalize(F.linear(x_TD, self.projection.to(x_TD.dtype)), dim=-1)
        keys_EP = F.normalize(self.keys.to(x_TD.dtype), dim=-1)
        scale = self.log_scale.to(x_TD.dtype).clamp(max=math.log(MAX_SCALE)).exp()
        return Routing.from_logits(F.linear(query_TP, keys_EP) * scale, self.top_k, self.normalize)
