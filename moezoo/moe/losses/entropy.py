"""Entropy losses: every token sure of its experts, all experts used (Mustafa et al. 2022, "LIMoE", section 2.2)."""

from __future__ import annotations

from torch import Tensor

from moezoo.moe.checks import check_positive
from moezoo.moe.losses.grouped import over_groups
from moezoo.moe.losses.shares import entropy, has_tokens, mean_probs, token_mean
from moezoo.moe.types import Routing


def local_entropy_loss(routing: Routing) -> Tensor:
    """Mean over tokens of ``H(p_t)``: small when each token is sure where to go. From 0 to log E."""
    return token_mean(entropy(routing.probs).sum(), routing)


@over_groups
def global_entropy_loss(routing: Routing, threshold: float | None = None) -> Tensor:
    """``-H(P)`` of the mean probabilities P: small when the experts are used evenly. From -log E to 0.

    Args:
        routing: The routing.
        threshold: With one the loss is ``max(0, threshold - H(P))``, which asks for no more than that entropy:
            ``log(n)`` for at least n experts in use.

    Raises:
        ConfigError: ``threshold`` is not a finite number of at least 0.
    """
    negative = -entropy(mean_probs(routing))
    if threshold is None:
        return negative
    # Without tokens there is no entropy to ask for.
    return (check_positive("threshold", threshold, zero=True) * has_tokens(routing) + negative).clamp_min(0)
