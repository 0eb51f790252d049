"""Random routing, the baseline every learned router has to beat (Zuo et al. 2021, "THOR", draws experts this way)."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.checks import check_int
from moezoo.moe.routers.base import Router, first_choices
from moezoo.moe.routers.fixed import fixed_routing
from moezoo.moe.routers.hash import hashed_scores, positions
from moezoo.moe.types import Routing


class RandomRouter(Router):
    """K experts drawn evenly for each token, anew in every training forward, by torch's generator.

    In evaluation the draw is fixed by ``seed`` and the token's position in its sample, so that equal inputs give equal
    outputs. It has no parameters.

    Args:
        seed: Of the draw in evaluation.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    def __init__(self, dim: int, num_experts: int, *, seed: int = 0, **shared):
        super().__init__(dim, num_experts, **shared)
        self.seed = check_int("seed", seed, low=0, high=2**31)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        if self.training:
            score_TE = torch.rand(x_TD.shape[0], self.num_experts, device=x_TD.device)
        else:
            score_TE = hashed_scores(positions(x_TD, samples), self.num_experts, self.seed)
        return fixed_routing(x_TD, first_choices(score_TE, self.top_k), self.num_experts, self.normalize)
