"""What stands in the place of an MLP."""

from __future__ import annotations

from torch import nn

from moezoo.models.moe_vit.vit import dense_mlp
from moezoo.models.soft_moe.config import SoftMoEConfig
from moezoo.moe import MoELayer


def moe_layer(config: SoftMoEConfig) -> nn.Module:
    """The MoE layer of a block, or of the dense twin its MLP. There are no losses: nothing can be out of balance."""
    if config.dense:
        return dense_mlp(config, config.dense_width)
    return MoELayer(
        config.hidden_size,
        num_experts=config.num_experts,
        router="soft",
        hidden_dim=config.expert_width,
        activation="gelu_tanh",
        dropout=config.experts_dropout,
        group_size=config.group_size,
        dispatch_dtype=config.dispatch_dtype,
        router_args={"num_slots": config.slots, "noise_std": config.router_noise},
        aux_weights={},
        layer_reduction="sum",
    )
