"""Top-p routing (Huang et al. 2024, "Harder Tasks Need More Experts", section 3.2): as many experts as it takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_probability
from moezoo.moe.routers.base import Router, linear_weight, shares
from moezoo.moe.types import Routing


class TopPRouter(Router):
    """Softmax; a token uses the smallest set of experts whose probabilities sum to at least p, weighted by these.

    Args:
        p: Above 0; 1 uses all experts.
        top_k: The least experts of a token.
        normalize: Divide a token's weights by their sum; ``None`` means ``top_k > 1``.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    expert_axes: ClassVar[Mapping[str, int] | None] = {"weight": 0}

    def __init__(self, dim: int, num_experts: int, *, p: float = 0.4, **shared):
        super().__init__(dim, num_experts, **shared)
        self.p = check_probability("p", p)
        if self.p == 0:
            raise ConfigError("p=0 is not allowed: it must be above 0 and at most 1.")
        self.weight = linear_weight(num_experts, dim)

    def route(self, x_TD: Tensor) -> Routing:
        logits_TE = F.linear(x_TD, self.weight.to(x_TD.dtype))
        probs_TE = logits_TE.softmax(-1)
        # By logits, which still differ where probabilities underflow to ties.
        expert_TE = logits_TE.detach().sort(dim=-1, descending=True, stable=True).indices
        best_TE = probs_TE.gather(1, expert_TE)
        before_TE = best_TE.detach().cumsum(-1) - best_TE.detach()
        rank_E = torch.arange(self.num_experts, device=x_TD.device)
        # A rounded sum may reach 1 early, so p = 1 is not left to it.
        chosen_TE = (before_TE < self.p) | (rank_E < (self.num_experts if self.p == 1 else self.top_k))
        weight_TE = shares(best_TE * chosen_TE) if self.normalize else best_TE
        return Routing.from_choice(expert_TE, weight_TE, logits_TE, probs_TE=probs_TE, chosen_TK=chosen_TE)
