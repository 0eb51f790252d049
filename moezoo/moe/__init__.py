"""The MoE core: tokens → router → plan → experts → combine. It knows no image, no model and no training."""

from moezoo.moe import losses, metrics
from moezoo.moe.aux import aux_loss, collect_aux
from moezoo.moe.aux_mode import set_aux_mode, set_aux_scale
from moezoo.moe.dial import set_budget, set_progress, set_threshold
from moezoo.moe.dispatch.capacity_rules import FixedCapacity, RoundedCapacity
from moezoo.moe.experts import register_experts
from moezoo.moe.experts.per_expert import stack, unstack
from moezoo.moe.layer import MoELayer
from moezoo.moe.paths.native import build_native
from moezoo.moe.paths.packs import packed_bytes, repack, set_packing
from moezoo.moe.record import RoutingRecord, record_routing
from moezoo.moe.routers import register_router, step_routers
from moezoo.moe.scope import set_balance_scope
from moezoo.moe.surgery import LayerSurgery, SurgeryReport, add_experts, merge_experts, prune_experts
from moezoo.moe.types import Routing

__all__ = [
    "FixedCapacity",
    "LayerSurgery",
    "MoELayer",
    "RoundedCapacity",
    "Routing",
    "RoutingRecord",
    "SurgeryReport",
    "add_experts",
    "aux_loss",
    "build_native",
    "collect_aux",
    "losses",
    "merge_experts",
    "metrics",
    "prune_experts",
    "packed_bytes",
    "record_routing",
    "register_experts",
    "register_router",
    "set_aux_mode",
    "repack",
    "set_aux_scale",
    "set_balance_scope",
    "set_budget",
    "set_progress",
    "set_threshold",
    "stack",
    "set_packing",
    "step_routers",
    "unstack",
]
