"""The dense mixture (Jacobs et al. 1991, "Adaptive Mixtures of Local Experts"): every expert, weighted by a softmax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_positive
from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.types import Routing


class DenseSoftmaxRouter(Router):
    """All E experts for every token, with weights ``softmax(W x / temperature)``, which sum to one.

    Args:
        temperature: Above 1 evens the weights out, below 1 sharpens them.
        top_k: Left at 1, or E; both mean E.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0}

    def __init__(self, dim: int, num_experts: int, *, temperature: float = 1.0, top_k: int = 1, **shared):
        if top_k not in (1, num_experts):
            raise ConfigError(
                f"top_k={top_k} is not allowed: router 'dense_softmax' uses all {num_experts} experts. For fewer take "
                "'softmax_topk'."
            )
        super().__init__(dim, num_experts, top_k=num_experts, **shared)
        self.temperature = check_positive("temperature", temperature)
        self.weight = linear_weight(num_experts, dim)

    def set_num_experts(self, num_experts: int) -> None:
        self.top_k = num_experts
        super().set_num_experts(num_experts)

    def route(self, x_TD: Tensor) -> Routing:
        logits_TE = F.linear(x_TD, self.weight.to(x_TD.dtype)) / self.temperature
        return Routing.from_logits(logits_TE, self.num_experts, normalize=False)
