"""What the losses measure: means over tokens, each expert's share of the assignments, and the entropy of shares.

What losses on the use of the experts measure is of each group, on a leading axis, where the routing has groups (G).
They are taken over the tokens of all processes where ``routing.ranks`` says so, here and nowhere else: a loss sums over
its own tokens and leaves the rest to these. No tokens give shares of zero, so that every loss is finite and zero then.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from moezoo.moe import ranks
from moezoo.moe.types import Routing


def token_mean(total: Tensor, routing: Routing) -> Tensor:
    """A sum over the tokens, divided by their number."""
    return ranks.token_mean(total, routing.num_tokens, routing.ranks)


def token_sum(total: Tensor, routing: Routing) -> Tensor:
    """A sum over the tokens."""
    return total if routing.ranks is None else routing.ranks.sum(total)


def has_tokens(routing: Routing) -> int | Tensor:
    """1 where there are tokens, else 0."""
    if routing.ranks is None:
        return min(routing.num_tokens, 1)
    return routing.ranks.sum(routing.probs.new_full((), routing.num_tokens)).clamp_max(1)


def group_sum(values_TX: Tensor, routing: Routing) -> Tensor:
    """(X,) a sum over the tokens of this process; (G, X) over those of each group."""
    if (size := routing.group_size) is None:
        return values_TX.sum(0)
    groups = routing.num_tokens // size
    whole = groups * size
    sums_GX = values_TX[:whole].reshape(groups, size, *values_TX.shape[1:]).sum(1)
    return sums_GX if whole == routing.num_tokens else torch.cat([sums_GX, values_TX[whole:].sum(0, keepdim=True)])


def group_mean(total: Tensor, routing: Routing) -> Tensor:
    """What :func:`group_sum` or :func:`group_counts` give, divided by the number of tokens."""
    if (size := routing.group_size) is None:
        return token_mean(total, routing)
    sizes_G = torch.full((len(total), 1), size, dtype=total.dtype, device=total.device)
    if rest := routing.num_tokens % size:
        sizes_G[-1] = rest
    return total / sizes_G


def group_counts(routing: Routing) -> Tensor:
    """(E,) assignments that chose each expert, dropped ones included; (G, E) in each group. Carries no gradient."""
    if (size := routing.group_size) is None:
        return routing.counts(dropped=True)
    E, groups = routing.num_experts, -(-routing.num_tokens // size)
    index_N = routing.token_index // size * E + routing.expert_index
    return dataclasses.replace(routing, expert_index=index_N, num_experts=groups * E).counts(dropped=True).view(-1, E)


def mean_probs(routing: Routing) -> Tensor:
    """(E,) or (G, E) mean probability of each expert over the tokens; carries the gradient."""
    return group_mean(group_sum(routing.probs, routing), routing)


def assigned_share(routing: Routing) -> Tensor:
    """(E,) or (G, E) share of the assignments that chose each expert, dropped ones included; carries no gradient."""
    counts = token_sum(group_counts(routing), routing)
    return counts / counts.sum(-1, keepdim=True).clamp_min(1)


def entropy(share: Tensor) -> Tensor:
    """``-sum p log p`` over the last axis in nats, with a finite gradient where a probability is zero."""
    return -(share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum(-1)


def squared_variation(load_E: Tensor) -> Tensor:
    """``(std / mean)^2`` over the last axis, with the population standard deviation; zero for a load of zeros."""
    mean = load_E.mean(-1, keepdim=True)
    return (load_E - mean).square().mean(-1) / mean.squeeze(-1).square().clamp_min(1e-20)
