"""The best share of each sample's tokens, by scores that the caller has already: nothing is learned, or drawn."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.errors import InputError
from moezoo.moe.checks import check_probability
from moezoo.moe.routers.split import SplitRouter, best_tokens, by_sample
from moezoo.moe.types import Routing


class TopFractionRouter(SplitRouter):
    """``ceil(fraction * L)`` of each sample's L tokens to expert 0, those of the highest scores, the rest to expert 1.

    Scores lie in [0, 1] and come with each call (``MoELayer.forward(x, scores=…)``); ties go to the lowest index. Every
    weight is exactly 1 and no gradient reaches the scores, as in A-MoD (Gadhikar et al. 2024, "Attention Is All You
    Need For Mixture-of-Depths Routing"). :func:`moezoo.moe.set_budget` is another fraction.

    Args:
        fraction: From 0 to 1.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s; ``num_experts`` must be 2 and ``top_k`` 1.
    """

    takes_scores = True

    def __init__(self, dim: int, num_experts: int, *, fraction: float = 0.5, **shared):
        super().__init__(dim, num_experts, **shared)
        self.fraction = check_probability("fraction", fraction)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_scored(x_TD, 1, None, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        return self.route_scored(x_TD, samples, token_type, None)

    def route_scored(self, x_TD: Tensor, samples: int, token_type: Tensor | None, scores_T: Tensor | None) -> Routing:
        if scores_T is None:
            raise InputError("router 'top_fraction' needs scores=, a number for every token: it has none of its own.")
        score_T = scores_T.detach()
        fraction = self.fraction if self.budget is None else self.budget
        chosen_BL, least_B1 = best_tokens(by_sample(score_T, samples), fraction)
        chosen_T, theta_T = chosen_BL.reshape(-1), least_B1.expand(chosen_BL.shape).reshape(-1)
        broken_T = (x_TD.detach() * 0).sum(-1)  # a token that is not finite makes its logits so, for training's check
        return Routing.from_choice(
            (~chosen_T).to(torch.int64)[:, None],
            x_TD.new_ones(x_TD.shape[0], 1),
            F.pad((_logit(score_T) - _logit(theta_T) + broken_T)[:, None], (0, 1)),
            probs_TE=torch.stack([score_T, 1 - score_T], -1),
        )


def _logit(value: Tensor) -> Tensor:
    """Finite also where ``value`` is 0 or 1."""
    return value.logit(torch.finfo(value.dtype).eps)
