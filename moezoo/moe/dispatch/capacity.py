"""Capacity: how many assignments an expert takes, and which ones it drops."""

from __future__ import annotations

import dataclasses
import math

import torch

from moezoo.moe.types import Routing


def expert_capacity(num_tokens: int, top_k: int, num_experts: int, capacity_factor: float) -> int:
    """``ceil(capacity_factor * T * K / E)`` (GShard; DeepSpeed's form)."""
    return math.ceil(capacity_factor * num_tokens * top_k / num_experts)


def apply_capacity(routing: Routing, capacity_factor: float) -> Routing:
    """Mark as dropped what exceeds the capacity.

    All first choices are served before any second choice, in token order (GShard, section 2.2). A dropped assignment
    contributes nothing; the weights of the others are not rescaled.
    """
    num_assignments = routing.expert_index.shape[0]
    if num_assignments == 0:
        return routing
    top_k = num_assignments // routing.num_tokens
    capacity = expert_capacity(routing.num_tokens, top_k, routing.num_experts, capacity_factor)
    experts_KT = routing.expert_index.view(routing.num_tokens, top_k).t().reshape(-1)
    one_hot = torch.nn.functional.one_hot(experts_KT, routing.num_experts)
    place_KT = (one_hot.cumsum(0) * one_hot).sum(-1)  # 1 for the first one in the queue of its expert
    dropped = (place_KT > capacity).view(top_k, routing.num_tokens).t().reshape(-1)
    return dataclasses.replace(routing, dropped=dropped)
