"""What the losses measure: each expert's share of the probability and of the assignments, and the entropy of shares.

No tokens give shares of zero, so that every loss built on them is finite and zero then.
"""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.types import Routing


def mean_probs(routing: Routing) -> Tensor:
    """(E,) mean probability of each expert over the tokens; carries the gradient."""
    return routing.probs.sum(0) / max(routing.num_tokens, 1)


def assigned_share(routing: Routing) -> Tensor:
    """(E,) share of the assignments that chose each expert, dropped ones included; carries no gradient."""
    counts_E = routing.counts(dropped=True)
    return counts_E / counts_E.sum().clamp_min(1)


def entropy(share: Tensor) -> Tensor:
    """``-sum p log p`` over the last axis in nats, with a finite gradient where a probability is zero."""
    return -(share * share.clamp_min(torch.finfo(share.dtype).tiny).log()).sum(-1)


def squared_variation(load_E: Tensor) -> Tensor:
    """``(std / mean)^2`` with the population standard deviation; zero for a load of zeros."""
    mean = load_E.mean()
    return (load_E - mean).square().mean() / mean.square().clamp_min(1e-20)
