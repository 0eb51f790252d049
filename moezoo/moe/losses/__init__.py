"""Auxiliary losses: functions of a :class:`~moezoo.moe.types.Routing`, float32 scalars, finite also for no tokens.

They never see a module. The gradient flows through the router's probabilities and logits only.
"""

from moezoo.moe.losses.balance import importance_loss, load_balancing_loss
from moezoo.moe.losses.zloss import router_z_loss

AUX_LOSSES = {
    "load_balancing": load_balancing_loss,
    "router_z": router_z_loss,
    "importance": importance_loss,
}
"""The kinds ``MoELayer(aux_weights=…)`` knows."""

__all__ = ["AUX_LOSSES", "importance_loss", "load_balancing_loss", "router_z_loss"]
