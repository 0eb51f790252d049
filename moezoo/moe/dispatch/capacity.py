"""Capacity: how many assignments an expert takes, and which ones it drops."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from moezoo.moe.types import Routing


def expert_capacity(num_tokens: int, top_k: int, num_experts: int, capacity_factor: float, rule: str = "gshard") -> int:
    """The assignments one expert takes, by one of :data:`CAPACITY_RULES`."""
    return CAPACITY_RULES[rule](num_tokens, top_k, num_experts, capacity_factor)


def _gshard(T: int, K: int, E: int, factor: float) -> int:
    return math.ceil(factor * T * K / E)


def _vmoe(T: int, K: int, E: int, factor: float) -> int:
    return (_gshard(T, K, E, factor) + 3) // 4 * 4


def _tutel(T: int, K: int, E: int, factor: float) -> int:
    return K * math.floor(factor * math.ceil(T / E))


def _megablocks(T: int, K: int, E: int, factor: float) -> int:
    return math.floor(factor * K * T / E)


def _lucidrains(T: int, K: int, E: int, factor: float) -> int:
    return torch.sym_max(math.floor(T * factor / E), 4)  # type: ignore[return-value]


CAPACITY_RULES = {
    "gshard": _gshard,
    "vmoe": _vmoe,
    "tutel": _tutel,
    "megablocks": _megablocks,
    "lucidrains": _lucidrains,
}
"""How libraries turn a factor c into a capacity, by their names.

* ``gshard``: ``ceil(c T K / E)`` (GShard; DeepSpeed's form).
* ``vmoe``: the same, rounded up to a multiple of 4.
* ``tutel``: ``K * floor(c * ceil(T / E))``.
* ``megablocks``: ``floor(c T K / E)``.
* ``lucidrains``: ``floor(c T / E)``, at least 4: K plays no part.
"""

PRIORITIES = ("choice", "score")


def apply_capacity(
    routing: Routing,
    capacity_factor: float,
    *,
    top_k: int | None = None,
    rule: str = "gshard",
    priority: str = "choice",
) -> Routing:
    """Mark as dropped what exceeds the capacity.

    All first choices are served before any second choice (GShard, section 2.2). A dropped assignment contributes
    nothing; the weights of the others are not rescaled.

    Args:
        routing: Token-major, equally many places per token, a token's best first.
        capacity_factor: c of the rule.
        top_k: K of the rule; ``None`` means the places per token.
        rule: One of :data:`CAPACITY_RULES`.
        priority: Among equal choices, ``choice`` serves tokens in their order and ``score`` by their falling best
            probability: batch prioritised routing (Riquelme et al. 2021, "V-MoE", section 4).
    """
    num_assignments = routing.expert_index.shape[0]
    if num_assignments == 0:
        return routing
    places = num_assignments // routing.num_tokens
    capacity = expert_capacity(
        routing.num_tokens, places if top_k is None else top_k, routing.num_experts, capacity_factor, rule
    )
    expert_TK = routing.expert_index.view(routing.num_tokens, places)
    chosen_TK = (~routing.dropped).view(routing.num_tokens, places)
    if priority == "choice":
        full_TK = _overflow(expert_TK, chosen_TK, routing.num_experts, capacity)
    else:
        order_T = routing.probs.detach().gather(1, expert_TK).amax(-1).sort(descending=True, stable=True).indices
        full_TK = _overflow(expert_TK[order_T], chosen_TK[order_T], routing.num_experts, capacity)[order_T.argsort()]
    return dataclasses.replace(routing, dropped=routing.dropped | full_TK.reshape(-1))


def _overflow(expert_TK: Tensor, chosen_TK: Tensor, num_experts: int, capacity: int) -> Tensor:
    """(T, K) bool: which assignments come too late in the queue of their expert, where the tokens stand as given."""
    one_hot = torch.nn.functional.one_hot(expert_TK.t().reshape(-1), num_experts) * chosen_TK.t().reshape(-1, 1)
    place_KT = (one_hot.cumsum(0) * one_hot).sum(-1)  # 1 for the first one in the queue, 0 for what was not chosen
    return (place_KT > capacity).view(expert_TK.shape[1], expert_TK.shape[0]).t()
