"""What stands in the place of an MLP."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.models.moe_vit.vit import dense_mlp
from moezoo.models.vmoe.config import VMoEConfig
from moezoo.moe import MoELayer
from moezoo.moe.dispatch.capacity import FixedCapacity, RoundedCapacity


def moe_layer(config: VMoEConfig) -> nn.Module:
    """The MoE layer of a block, or of the dense twin its MLP."""
    if config.dense:
        return dense_mlp(config, config.dense_width)
    tokens_choose = config.router == "noisy_topk"
    return MoELayer(
        config.hidden_size,
        num_experts=config.num_experts,
        top_k=config.top_k if tokens_choose else 1,
        router=config.router,
        hidden_dim=config.expert_width,
        activation="gelu_tanh",
        dropout=config.experts_dropout,
        group_size=_group(config),
        dispatch_dtype=config.dispatch_dtype,
        router_args={"sigma": config.noise_std, **({"batch_priority": config.batch_priority} if tokens_choose else {})},
        aux_weights=_losses(config) if tokens_choose else {},
        aux_args={"load_balancing": {"first_choice": True}} if tokens_choose and config.load_balance_weight else None,
        layer_reduction="sum",
        **_room(config),
    )


def _group(config: VMoEConfig) -> int | None:
    """``None`` where experts choose among the tokens of one image, whatever its size."""
    alone = config.router == "expert_choice" and config.group_images == 1
    return config.group_size if alone else config.tokens_per_group


def _room(config: VMoEConfig) -> dict[str, Any]:
    if config.capacity is not None:
        return {"capacity_rule": FixedCapacity(config.capacity)}
    if config.capacity_factor is None:
        return {}
    return {
        "capacity_factor": config.capacity_factor,
        "eval_capacity_factor": config.eval_capacity_factor,
        "capacity_rule": RoundedCapacity(config.capacity_rounding, config.capacity_multiple_of),
    }


def _losses(config: VMoEConfig) -> dict[str, float]:
    """Those with a weight; without noise there is no load to expect."""
    weights = {
        "importance": config.importance_weight,
        "load": config.load_weight if config.noise_std else 0.0,
        "load_balancing": config.load_balance_weight,
    }
    return {kind: weight for kind, weight in weights.items() if weight}
