"""One decision per image (Daxberger et al. 2023, "Mobile V-MoEs", section 2): all its tokens follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.routers.base import Router, linear_weight
from moezoo.moe.types import Routing


class PerImageRouter(Router):
    """Softmax top-k of the mean token of each sample; all tokens of the sample go to the chosen experts.

    An input without a sample axis, (T, D), is one sample.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0}

    def __init__(self, dim: int, num_experts: int, **shared):
        super().__init__(dim, num_experts, **shared)
        self.weight = linear_weight(num_experts, dim)

    @property
    def keeps_samples_whole(self) -> bool:
        return not self.limited

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        num_tokens, dim = x_TD.shape
        size = num_tokens // samples if num_tokens > 0 else 1
        mean_SD = x_TD.reshape(num_tokens // size, size, dim).mean(1)
        logits_SE = F.linear(mean_SD, self.weight.to(x_TD.dtype))
        logits_TE = logits_SE[:, None].expand(-1, size, -1).reshape(num_tokens, self.num_experts)
        return Routing.from_logits(logits_TE, self.top_k, self.normalize)

    def flops(self, routing: Routing) -> int:
        return 2 * routing.samples * self.weight.numel() if routing.num_tokens else 0
