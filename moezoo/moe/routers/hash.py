"""Hash routing (Roller et al. 2021, "Hash Layers for Large Sparse Models"): a fixed function of what a token is."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.checks import check_choice, check_int
from moezoo.moe.routers.base import Router, first_choices
from moezoo.moe.routers.fixed import fixed_routing
from moezoo.moe.types import Routing

KEYS = ("position", "token_type")


class HashRouter(Router):
    """Tokens of equal key go to the same K pseudo-random experts, always. It has no parameters.

    The paper hashes the word; an image has the token's position in its sample, or its ``token_type``.

    Args:
        key: ``position`` or ``token_type``.
        seed: Another seed is another assignment.

    The remaining arguments are :class:`~moezoo.moe.routers.Router`'s.
    """

    def __init__(self, dim: int, num_experts: int, *, key: str = "position", seed: int = 0, **shared):
        super().__init__(dim, num_experts, **shared)
        self.key = check_choice("key", key, KEYS)
        self.seed = check_int("seed", seed, low=0, high=2**31)

    def route(self, x_TD: Tensor) -> Routing:
        return self.route_samples(x_TD, 1, None)

    def route_samples(self, x_TD: Tensor, samples: int, token_type: Tensor | None) -> Routing:
        if self.key == "token_type":
            if token_type is None:
                raise InputError("router 'hash' with key='token_type' needs token_type=, a kind for every token")
            key_T = token_type
        else:
            key_T = positions(x_TD, samples)
        expert_TK = first_choices(hashed_scores(key_T, self.num_experts, self.seed), self.top_k)
        return fixed_routing(x_TD, expert_TK, self.num_experts, self.normalize)


def positions(x_TD: Tensor, samples: int) -> Tensor:
    """(T,) int64: where each token stands in its sample."""
    index_T = torch.arange(x_TD.shape[0], device=x_TD.device)
    return index_T % (x_TD.shape[0] // samples) if x_TD.shape[0] > 0 else index_T


def hashed_scores(key_T: Tensor, num_experts: int, seed: int) -> Tensor:
    """(T, E) int64 of well-mixed bits, a function of the key, the expert and the seed alone (any device, any batch)."""
    bits_TE = key_T.to(torch.int64)[:, None] * num_experts + torch.arange(num_experts, device=key_T.device)
    bits_TE = (bits_TE + 1) * 0x9E3779B1 + (seed + 1) * 0x85EBCA77
    for factor in (0x45D9F3B, 0x45D9F3B):
        # 32 bits are kept, so that products stay within int64.
        bits_TE = bits_TE & 0xFFFFFFFF
        bits_TE = (bits_TE ^ (bits_TE >> 16)) * factor
    bits_TE = bits_TE & 0xFFFFFFFF
    return bits_TE ^ (bits_TE >> 16)
