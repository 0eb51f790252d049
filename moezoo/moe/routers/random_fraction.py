"""A random share of each sample's tokens to the big expert: what a router by scores has to beat at equal cost."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.checks import check_int, check_probability
from moezoo.moe.routers.fixed import fixed_routing
from moezoo.moe.routers.hash import hashed_scores, positions
from moezoo.moe.routers.split import SplitRouter, best_tokens, by_sample
from moezoo.moe.types import Routing


class RandomFractionRouter(SplitRouter):
    """``ceil(fraction * L)`` of each sample's L tokens, drawn evenly, to expert 0 and the others to expert 1.

    In training they are drawn anew in every forward, by torch's generator. In evaluation the draw is a function of
    what the sample holds and of ``seed``, so that equal images give equal outputs and unequal ones other places. It has
    no parameters, and :func:`moezoo.moe.set_budget` is another fraction.

    Args:
        fraction: From 0 to 1.
        seed: Of the draw in evaluation.
        first: So many tokens of each sample, the first, are drawn before all others: a class token.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s; ``num_experts`` must be 2 and ``top_k`` 1.
    """

    def __init__(self, dim: int, num_experts: int, *, fraction: float = 0.25, seed: int = 0, first: int = 0, **shared):
        super().__init__(dim, num_experts, **shared)
        self.fraction = check_probability("fraction", fraction)
        self.seed = check_int("seed", seed, low=0, high=2**31)
        self.first = check_int("first", first, low=0)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        if self.training:
            score_T = torch.rand(x_TD.shape[0], device=x_TD.device)
        else:
            score_T = hashed_scores(_content(x_TD, samples) + positions(x_TD, samples), 1, self.seed)[:, 0]
        score_BL = by_sample(score_T, samples)
        if self.first:
            place_L = torch.arange(score_BL.shape[1], device=x_TD.device)
            score_BL = score_BL.double().masked_fill(place_L < self.first, torch.inf)
        chosen_BL, _ = best_tokens(score_BL, self.fraction if self.budget is None else self.budget)
        return fixed_routing(x_TD, torch.where(chosen_BL.reshape(-1, 1), 0, 1), 2, False)


def _content(x_TD: Tensor, samples: int) -> Tensor:
    """(T,) int64: a number of what the token's sample holds, far enough apart to add positions to.

    It is roughly a mean of the sample, so that rounding in what computed the tokens hardly ever changes it; with uneven
    factors, since normalised tokens all have the same mean.
    """
    num_tokens = x_TD.shape[0]
    if num_tokens == 0:
        return torch.zeros(0, dtype=torch.int64, device=x_TD.device)
    x_BN = x_TD.detach().reshape(samples, -1).double()
    factor_N = torch.arange(x_BN.shape[1], dtype=torch.float64, device=x_TD.device).cos()
    mean_B = (x_BN * factor_N).sum(1) / x_BN.shape[1] ** 0.5  # a matrix product would count as the router's FLOPs
    key_B = (mean_B.nan_to_num(0.0, 0.0, 0.0).clamp(-1e6, 1e6) * 1024).floor().to(torch.int64)
    return key_B[:, None].expand(-1, num_tokens // samples).reshape(-1) * 65537
