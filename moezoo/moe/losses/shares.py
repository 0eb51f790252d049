"""What the losses measure: means over tokens, each expert's share of the assignments, and the entropy of shares.

They are taken over the tokens of all processes where ``routing.ranks`` says so, here and nowhere else: a loss sums over
its own tokens and leaves the rest to these. No tokens give shares of zero, so that every loss is finite and zero then.
"""

from __future__ import annotations

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


def mean_probs(routing: Routing) -> Tensor:
    """(E,) mean probability of each expert over the tokens; carries the gradient."""
    return token_mean(routing.probs.sum(0), routing)


def assigned_share(routing: Routing) -> Tensor:
    """(E,) share of the assignments that chose each expert, dropped ones included; carries no gradient."""
    counts_E = token_sum(routing.counts(dropped=True), routing)
    return counts_E / counts_E.sum().clamp_min(1)


def entropy(share: Tensor) -> Tensor:
    """``-sum p log p`` over the last axis in nats, with a finite gradient where a probability is zero."""
    return -(share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum(-1)


def squared_variation(load_E: Tensor) -> Tensor:
    """``(std / mean)^2`` with the population standard deviation; zero for a load of zeros."""
    mean = load_E.mean()
    return (load_E - mean).square().mean() / mean.square().clamp_min(1e-20)
