"""Routing by attention: a query made of the token against one learned key per expert."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_int, check_positive, check_probability
from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.routers.noise import noisy_top_k
from moezoo.moe.types import Routing


class AttentiveRouter(Router):
    """``logits = (W x) . key_e / sqrt(key_dim)`` (Vaswani et al. 2017, eq. 1), then softmax top-k.

    Keys start orthogonal where ``key_dim`` allows it, so no two experts begin alike.

    Args:
        key_dim: Width of queries and keys; ``None`` means ``dim``.
        noise_std: Standard deviation of Gaussian noise added to the logits in training.
        dropout: Of the queries, in training.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"keys": 0}

    def __init__(
        self,
        dim: int,
        num_experts: int,
        *,
        key_dim: int | None = None,
        noise_std: float = 0.0,
        dropout: float = 0.0,
        **shared,
    ):
        super().__init__(dim, num_experts, **shared)
        self.key_dim = dim if key_dim is None else check_int("key_dim", key_dim, low=1)
        self.noise_std = check_positive("noise_std", noise_std, zero=True)
        self.dropout = check_probability("dropout", dropout)
        self.query = linear_weight(self.key_dim, dim)
        self.keys = nn.Parameter(torch.empty(num_experts, self.key_dim))
        nn.init.orthogonal_(self.keys)

    def route(self, x_TD: Tensor) -> Routing:
        query_TP = F.dropout(F.linear(x_TD, self.query.to(x_TD.dtype)), self.dropout, self.training)
        clean_TE = F.linear(query_TP, self.keys.to(x_TD.dtype)) * self.key_dim**-0.5
        return noisy_top_k(clean_TE, self.noise_std if self.training else 0.0, self.top_k, self.normalize)
