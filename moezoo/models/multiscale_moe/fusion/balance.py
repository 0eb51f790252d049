"""The balance loss as a plain function of weights, for loops of one's own."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.checks import check_probability


def expert_balance_loss(expert_weights: Tensor, target_balance: float | None = None) -> Tensor:
    """``mean_e (u_e - target)^2`` of the mean weights u: 0 where every expert has its share.

    The fusions have it as ``balance_weight`` already.

    Args:
        expert_weights: (B, E), a sample's summing to one.
        target_balance: The mean weight that every expert should have; ``None`` means 1/E, which makes this the
            population variance of the mean weights.

    Returns:
        A scalar, 0 for no samples.

    Raises:
        InputError: ``expert_weights`` is not (B, E).
        ConfigError: ``target_balance`` is not a number from 0 to 1.
    """
    if not isinstance(expert_weights, Tensor) or expert_weights.dim() != 2 or not expert_weights.shape[1]:
        got = tuple(expert_weights.shape) if isinstance(expert_weights, Tensor) else type(expert_weights).__name__
        raise InputError(f"expert_weights must be (B, E), got {got}")
    batch, num_experts = expert_weights.shape
    target = 1 / num_experts if target_balance is None else check_probability("target_balance", target_balance)
    weights = expert_weights.to(torch.promote_types(expert_weights.dtype, torch.float32))
    if not batch:
        return weights.sum()
    return (weights.mean(0) - target).square().mean()
