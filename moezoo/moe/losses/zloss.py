"""The router z-loss, which keeps logits small enough for stable training."""

from __future__ import annotations

from torch import Tensor

from moezoo.moe.types import Routing


def router_z_loss(routing: Routing) -> Tensor:
    """Mean over tokens of ``logsumexp(logits)^2`` (Zoph et al. 2022, "ST-MoE", eq. 5), on the logits before noise."""
    return routing.clean_logits.logsumexp(-1).square().sum() / max(routing.num_tokens, 1)
