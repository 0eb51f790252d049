"""Several gates that vote: the mean of their softmaxes, then the best K."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.moe.checks import check_int, check_positive
from moezoo.moe.routers.base import Router
from moezoo.moe.types import Routing


class MultiHeadRouter(Router):
    """``probs = mean over heads h of softmax(W_h x / temperature)``; the best K are chosen, all of them with K = E.

    ``logits`` are the logarithms of ``probs``.

    Args:
        num_heads: Gates.
        temperature: Of each gate's softmax.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 1}

    def __init__(self, dim: int, num_experts: int, *, num_heads: int = 4, temperature: float = 1.0, **shared):
        super().__init__(dim, num_experts, **shared)
        self.num_heads = check_int("num_heads", num_heads, low=1)
        self.temperature = check_positive("temperature", temperature)
        self.weight = nn.Parameter(torch.empty(num_heads, num_experts, dim))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def route(self, x_TD: Tensor) -> Routing:
        gates_THE = F.linear(x_TD, self.weight.to(x_TD.dtype).flatten(0, 1)).unflatten(-1, (self.num_heads, -1))
        log_THE = (gates_THE / self.temperature).log_softmax(-1)
        logits_TE = log_THE.logsumexp(1) - math.log(self.num_heads)
        return Routing.from_logits(logits_TE, self.top_k, self.normalize)
