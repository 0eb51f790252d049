"""How many tokens an expert can expect when the router's noise is drawn again."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.checks import check_positive
from moezoo.moe.losses.grouped import over_groups
from moezoo.moe.losses.shares import group_mean, group_sum, squared_variation
from moezoo.moe.types import Routing


@over_groups
def load_loss(routing: Routing, noise_std: float | None = None) -> Tensor:
    """Squared coefficient of variation of the experts' expected load (Riquelme et al. 2021, "V-MoE", A.2).

    ``p_ti = 1 - Phi((threshold_t - clean_logits_ti) / noise_std)`` is the probability that expert i wins token t with
    fresh noise, ``threshold_t`` being the lowest noisy logit that was chosen, the k-th largest; an expert's load is the
    mean of its p. Clean logits stand inside Phi, noisy ones in the threshold; the variation is the population's.

    Args:
        routing: A routing by noisy logits.
        noise_std: Standard deviation of the noise; ``None`` means the router's own, and V-MoE's 1/E where it has none.

    Raises:
        ConfigError: ``noise_std`` is not a finite number above zero.
    """
    std: float | Tensor = 1 / routing.num_experts if routing.noise_std is None else routing.noise_std
    if noise_std is not None:
        std = check_positive("noise_std", noise_std)
    chosen_N = routing.logits[routing.token_index, routing.expert_index]
    if routing.chosen is not None:
        chosen_N = chosen_N.where(routing.chosen, torch.inf)
    # A token that chose no expert has no threshold that any expert could pass.
    threshold_T = routing.logits.new_full((routing.num_tokens,), torch.inf)
    threshold_T = threshold_T.scatter_reduce(0, routing.token_index, chosen_N, "amin")
    wins_TE = torch.special.ndtr((routing.clean_logits - threshold_T[:, None]) / std)
    return squared_variation(group_mean(group_sum(wins_TE, routing), routing))
