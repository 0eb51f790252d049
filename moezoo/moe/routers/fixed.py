"""What routers without learned scores share: even weights, and logits that say nothing."""

from __future__ import annotations

import math

from torch import Tensor

from moezoo.moe.routers.base import shares
from moezoo.moe.types import Routing


def fixed_routing(
    x_TD: Tensor, expert_TK: Tensor, num_experts: int, normalize: bool, chosen_TK: Tensor | None = None
) -> Routing:
    """Token t to its given experts, each with weight 1, or with equal weights that sum to one.

    ``probs`` are the share of each chosen expert, and all logits are ``-log E``, whose z-loss is zero. A token that is
    not finite makes its logits so, for the check in training.
    """
    weight_TK = x_TD.new_ones(expert_TK.shape)
    if chosen_TK is not None:
        weight_TK = weight_TK * chosen_TK
    share_TK = shares(weight_TK)
    broken_T1 = (x_TD.detach() * 0).sum(-1, keepdim=True)
    return Routing.from_choice(
        expert_TK,
        share_TK if normalize else weight_TK,
        broken_T1.expand(-1, num_experts) - math.log(num_experts),
        probs_TE=x_TD.new_zeros(x_TD.shape[0], num_experts).scatter_add(1, expert_TK, share_TK),
        chosen_TK=chosen_TK,
    )
