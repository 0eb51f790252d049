"""Capacity: how many assignments an expert takes, and which ones it drops."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe.dispatch.capacity_rules import (
    CAPACITY_RULES,
    CapacityRule,
    FixedCapacity,
    NoCapacity,
    RoundedCapacity,
)
from moezoo.moe.types import Routing

__all__ = ["CAPACITY_RULES", "FixedCapacity", "RoundedCapacity", "apply_capacity", "expert_capacity"]


def expert_capacity(
    num_tokens: int,
    top_k: int,
    num_experts: int,
    capacity_factor: float | None,
    rule: str | CapacityRule = "gshard",
) -> int:
    """The assignments one expert takes, by one of :data:`CAPACITY_RULES` or a rule of one's own.

    Raises:
        ConfigError: A rule of one's own gives something else than a whole number.
    """
    if isinstance(rule, str):
        return CAPACITY_RULES[rule](num_tokens, top_k, num_experts, capacity_factor)
    capacity = rule(num_tokens, top_k, num_experts, capacity_factor)
    if not isinstance(capacity, (int, torch.SymInt)):
        raise ConfigError(f"capacity_rule={rule!r} gives {capacity!r} for {num_tokens} tokens: no whole number.")
    return capacity


def apply_capacity(
    routing: Routing,
    capacity_factor: float | None,
    *,
    top_k: int | None = None,
    rule: str | CapacityRule = "gshard",
    priority: str = "choice",
    group_size: int | None = None,
) -> Routing:
    """Mark as dropped what exceeds the capacity.

    All first choices are served before any second choice (GShard, section 2.2). A dropped assignment contributes
    nothing; the weights of the others are not rescaled.

    Args:
        routing: Token-major, equally many places per token, a token's best first.
        capacity_factor: c of the rule.
        top_k: K of the rule; ``None`` means the places per token.
        rule: One of :data:`CAPACITY_RULES`, or a rule of one's own.
        priority: Among equal choices, ``choice`` serves tokens in their order and ``score`` by their falling best
            probability: batch prioritised routing (Riquelme et al. 2021, "V-MoE", section 4).
        group_size: So many neighbouring tokens share a capacity, what is left at the end one of its own size; ``None``:
            all of them share one.
    """
    num_assignments = routing.expert_index.shape[0]
    if num_assignments == 0:
        return routing
    T, places = routing.num_tokens, num_assignments // routing.num_tokens
    expert_TK = routing.expert_index.view(T, places)
    chosen_TK = (~routing.dropped).view(T, places)
    limit = _Limit(places if top_k is None else top_k, routing.num_experts, capacity_factor, rule)
    capacity = limit.of_tokens(T, group_size, expert_TK.device)
    queue_TK, queues = _queues(expert_TK, routing.num_experts, group_size)
    queue_TK = torch.where(chosen_TK, queue_TK, queues)
    if priority == "choice":
        place_TK = _places(queue_TK, queues)
    else:
        order_T = routing.probs.detach().gather(1, expert_TK).amax(-1).sort(descending=True, stable=True).indices
        place_TK = _places(queue_TK[order_T], queues)[order_T.argsort()]
    full_TK = (place_TK >= capacity) & chosen_TK
    return dataclasses.replace(routing, dropped=routing.dropped | full_TK.reshape(-1))


@dataclasses.dataclass(frozen=True)
class _Limit:
    """The capacity of any number of tokens."""

    top_k: int
    num_experts: int
    factor: float | None
    rule: str | CapacityRule

    def of(self, num_tokens: int) -> int:
        return expert_capacity(num_tokens, self.top_k, self.num_experts, self.factor, self.rule)

    def of_rest(self, num_tokens: int) -> int:
        """The last group of a batch may be too small for a rule that is strict: each expert then takes one."""
        try:
            return self.of(num_tokens)
        except NoCapacity:
            return 1

    def of_tokens(self, num_tokens: int, group_size: int | None, device: torch.device) -> int | Tensor:
        """(T, 1) what an expert takes of the group of each token, or one number for all."""
        if group_size is None:
            return self.of(num_tokens)
        token_T = torch.arange(num_tokens, device=device)
        if isinstance(num_tokens, torch.SymInt):  # tracing: what the rules do is not for any graph
            of_size = [0] + [self.of_rest(size) for size in range(1, group_size)] + [self.of(group_size)]
            size_T = (num_tokens - token_T // group_size * group_size).clamp(max=group_size)
            return torch.tensor(of_size, device=device)[size_T, None]
        groups, rest = num_tokens // group_size, num_tokens % group_size
        if not (groups and rest):
            return self.of(group_size) if groups else self.of_rest(rest)
        return torch.where(token_T < groups * group_size, self.of(group_size), self.of_rest(rest))[:, None]


def _queues(expert_TK: Tensor, num_experts: int, group_size: int | None) -> tuple[Tensor, int]:
    """(T, K) the queue of each assignment, one for each group and expert, and how many queues there are, or more."""
    if group_size is None:
        return expert_TK, num_experts
    T = expert_TK.shape[0]
    group_T = torch.arange(T, device=expert_TK.device) // group_size
    # While tracing a bound serves: the number of groups would bind the exported graph to some batch sizes.
    groups = T if isinstance(T, torch.SymInt) else -(-T // group_size)
    return expert_TK + group_T[:, None] * num_experts, groups * num_experts


def _places(queue_TK: Tensor, queues: int) -> Tensor:
    """(T, K) how many stand before each assignment in its queue, by choice and then as the tokens are given.

    Assignments of queue number ``queues`` stand in none.
    """
    T, K = queue_TK.shape
    queue_N, order_N = queue_TK.t().reshape(-1).sort(stable=True)
    length_Q = torch.zeros(queues + 1, dtype=torch.int64, device=queue_N.device)
    length_Q = length_Q.scatter_add(0, queue_N, torch.ones_like(queue_N))
    first_Q = length_Q.cumsum(0) - length_Q
    place_N = torch.arange(T * K, device=queue_N.device) - first_Q[queue_N]
    return torch.empty_like(place_N).scatter(0, order_N, place_N).view(K, T).t()
