"""What routers between two experts share: the first is the dear one, and a dial says how many tokens it gets."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe.routers.base import Router


class SplitRouter(Router):
    """One of two experts for every token: expert 0, the big one, or expert 1, the small one.

    The arguments are :class:`~moezoo.moe.routers.Router`'s; ``num_experts`` must be 2 and ``top_k`` 1.

    Raises:
        ConfigError: There are not two experts, or a token is to have both.
    """

    budget: float | None = None
    """The share of each sample's tokens that expert 0 gets, set by :func:`moezoo.moe.set_budget`; ``None`` leaves it to
    the router. It is never saved."""

    def __init__(self, dim: int, num_experts: int, **shared):
        super().__init__(dim, num_experts, **shared)
        self.set_num_experts(num_experts)
        if self.top_k != 1:
            raise ConfigError(f"top_k={self.top_k} is not allowed: {type(self).__name__} gives a token one expert.")

    def set_num_experts(self, num_experts: int) -> None:
        if num_experts != 2:
            raise ConfigError(
                f"num_experts={num_experts} is not allowed: {type(self).__name__} decides between two experts, a big "
                "one and a small one."
            )
        super().set_num_experts(num_experts)


def num_chosen(fraction: float, num_tokens: int) -> int:
    """``ceil(fraction * num_tokens)``, where a product such as 0.07 * 100 is not taken for more than 7."""
    return math.ceil(fraction * num_tokens * (1 - 1e-12))


def best_tokens(score_BL: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """The ``ceil(fraction * L)`` best tokens of each sample.

    Returns:
        (B, L) bool, ties to the lowest index, and (B, 1) the least score among them: where none are chosen the best.
    """
    B, L = score_BL.shape
    if L == 0:
        return torch.zeros_like(score_BL, dtype=torch.bool), score_BL.new_zeros(B, 1)
    count = num_chosen(fraction, L)
    # A stable sort, not topk, whose order among equals is unspecified.
    sorted_BL, order_BL = score_BL.detach().sort(dim=-1, descending=True, stable=True)
    first_BL = (torch.arange(L, device=score_BL.device) < count).expand(B, L)
    chosen_BL = torch.zeros_like(first_BL).scatter(1, order_BL, first_BL)
    return chosen_BL, sorted_BL[:, max(count - 1, 0), None]


def by_sample(value_T: Tensor, samples: int) -> Tensor:
    """(T,) to (B, L): the tokens of each sample in a row."""
    num_tokens = value_T.shape[0]
    return value_T.reshape(samples, num_tokens // samples) if num_tokens else value_T.reshape(0, 1)
