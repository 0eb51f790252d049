"""Building an upcycled backbone from its configuration."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inputs import expect_images
from moezoo.backbones.live import note_as_built
from moezoo.backbones.timm_models import create_backbone
from moezoo.backbones.upcycle import upcycle
from moezoo.backbones.upcycle_twin import widen
from moezoo.models.upcycled.config import TopKUpcycledConfig, UpcycledConfig
from moezoo.models.upcycled.stats import answer_stats
from moezoo.moe.upcycling import ExpertInit


def build_top_k(config: TopKUpcycledConfig) -> nn.Module:
    """The model with fresh weights, its experts made from fresh MLPs; of a dense configuration its twin.

    Raises:
        UnknownModelError: There is no such backbone.
        ConfigError, InjectionError: A field does not fit the backbone.
    """
    return build_upcycled(
        config,
        create_backbone(config),
        config.top_k,
        top_k=config.top_k,
        router=config.router,
        # Not every router's null makes copies compute what the MLP did.
        normalize=(True if config.top_k > 1 else None) if config.normalize is None else config.normalize,
        capacity_factor=config.capacity_factor,
        capacity_rule=config.capacity_rule,
        eval_capacity_factor=config.eval_capacity_factor,
        router_args=config.router_args,
        aux_weights=config.aux_weights,
    )


def build_upcycled(
    config: UpcycledConfig, backbone: nn.Module, used: int, *, twin: ExpertInit | None = None, **moe: Any
) -> nn.Module:
    """``backbone`` with what ``config`` says in the place of some of its MLPs.

    Args:
        used: How many experts' worth a token uses; the dense twin's MLPs are as wide as these together.
        twin: How the dense twin is made as one expert, where it is not so wide.
        **moe: Further fields of :class:`~moezoo.backbones.upcycle.UpcycleConfig`.
    """
    where: Any = config.moe_layers
    # Decoded lists are tuples; as a list, two indices are two blocks, not a (stage, block) pair.
    where = list(where) if isinstance(where, tuple) else where
    if not config.dense:
        upcycle(
            backbone,
            where,
            num_experts=config.num_experts,
            init=config.init,
            noise_std=config.init_noise,
            partition=config.partition,
            dropout=config.expert_dropout,
            layer_reduction="sum",
            **moe,
        )
    else:
        start = ExpertInit(config.init, config.init_noise, config.partition) if twin is None else twin
        experts, used = (config.num_experts, used) if twin is None else (1, 1)
        widen(backbone, where, num_experts=experts, top_k=used, init=start, dropout=config.expert_dropout)
    return note_as_built(allow_empty_batches(answer_stats(expect_images(backbone))))
