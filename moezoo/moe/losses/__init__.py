"""Auxiliary losses: functions of a :class:`~moezoo.moe.types.Routing`, float32 scalars, zero for no tokens.

They never see a module. The gradient flows through the router's probabilities and logits only, but for the losses on
the experts' outputs, which are given these too. Those on how evenly the experts are used are, of a routing with groups,
the mean over its groups; those that are means over tokens stay what they are.
"""

from collections.abc import Callable

from torch import Tensor

from moezoo.moe.losses.balance import importance_loss, load_balancing_loss, load_variance_loss
from moezoo.moe.losses.budget import compute_budget_loss
from moezoo.moe.losses.diversity import expert_diversity_loss
from moezoo.moe.losses.entropy import global_entropy_loss, local_entropy_loss
from moezoo.moe.losses.kl import kl_balance_loss, kl_counts_loss
from moezoo.moe.losses.load import load_loss
from moezoo.moe.losses.outputs import output_diversity_loss
from moezoo.moe.losses.zloss import prob_sq_loss, router_z_loss, z_loss

AUX_LOSSES: dict[str, Callable[..., Tensor]] = {
    "load_balancing": load_balancing_loss,
    "router_z": router_z_loss,
    "importance": importance_loss,
    "load": load_loss,
    "prob_sq": prob_sq_loss,
    "kl_balance": kl_balance_loss,
    "kl_counts": kl_counts_loss,
    "local_entropy": local_entropy_loss,
    "global_entropy": global_entropy_loss,
    "load_variance": load_variance_loss,
    "compute_budget": compute_budget_loss,
}
"""The kinds ``MoELayer(aux_weights=…)`` knows, each a function of a routing and of its ``aux_args``."""

OUTPUT_LOSSES: dict[str, Callable[..., Tensor]] = {"output_diversity": output_diversity_loss}
"""Further kinds: functions of (T, E, D) the experts' outputs for each token, a routing and their ``aux_args``."""

__all__ = [
    "AUX_LOSSES",
    "OUTPUT_LOSSES",
    "compute_budget_loss",
    "expert_diversity_loss",
    "global_entropy_loss",
    "importance_loss",
    "kl_balance_loss",
    "kl_counts_loss",
    "load_balancing_loss",
    "load_loss",
    "load_variance_loss",
    "local_entropy_loss",
    "output_diversity_loss",
    "prob_sq_loss",
    "router_z_loss",
    "z_loss",
]
