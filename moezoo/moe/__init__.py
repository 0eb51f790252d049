"""The MoE core: tokens → router → plan → experts → combine. It knows no image, no model and no training."""

from moezoo.moe import losses
from moezoo.moe.aux import aux_loss, collect_aux
from moezoo.moe.aux_mode import set_aux_mode, set_aux_scale
from moezoo.moe.experts import register_experts
from moezoo.moe.layer import MoELayer
from moezoo.moe.record import RoutingRecord, record_routing
from moezoo.moe.routers import register_router, step_routers
from moezoo.moe.types import Routing

__all__ = [
    "MoELayer",
    "Routing",
    "RoutingRecord",
    "aux_loss",
    "collect_aux",
    "losses",
    "record_routing",
    "register_experts",
    "register_router",
    "set_aux_mode",
    "set_aux_scale",
    "step_routers",
]
