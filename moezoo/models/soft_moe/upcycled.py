"""Building a Soft MoE from a pretrained ViT."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.backbones.timm_models import create_backbone
from moezoo.errors import ConfigError
from moezoo.models.soft_moe.config_upcycled import SoftMoEUpcycledConfig
from moezoo.models.upcycled.build import build_upcycled
from moezoo.moe.upcycling import ExpertInit


def build_soft(config: SoftMoEUpcycledConfig) -> nn.Module:
    """The model with fresh weights; of a dense configuration its twin.

    Raises:
        UnknownModelError: There is no such backbone.
        ConfigError, InjectionError: A field does not fit the backbone.
    """
    backbone = create_backbone(config)
    tokens = _tokens(backbone)
    slots = config.num_slots
    if slots is None:
        if tokens is None:
            raise ConfigError(
                f"num_slots is needed for {config.model_name!r}, which does not say how many tokens an image has."
            )
        slots = max(1, round(tokens * config.capacity_factor / config.num_experts))
    noise = {} if config.router_noise is None else {"noise_std": config.router_noise}
    computed = round(slots * config.num_experts / tokens) if tokens else 1
    return build_upcycled(
        config,
        backbone,
        max(1, computed),
        twin=_recycled_twin(config, slots, tokens) if config.init == "recycle" and config.dense else None,
        sampling=config.sampling,
        num_core=config.num_core,
        core_ratio=config.core_ratio,
        universal_ratio=config.universal_ratio,
        router=config.router,
        router_args={"num_slots": slots, **noise, **config.router_args},
        aux_weights={},
    )


def _recycled_twin(config: SoftMoEUpcycledConfig, slots: int, tokens: int | None) -> ExpertInit:
    """One MLP for every token, made of so many units of the dense one that it costs what the experts' slots do."""
    experts = ExpertInit(
        "recycle",
        num_core=config.num_core,
        core_ratio=config.core_ratio,
        universal_ratio=config.universal_ratio,
    )
    share = slots * sum(experts.ratios(config.num_experts)) / (tokens or slots * config.num_experts)
    if share > 1:
        raise ConfigError(
            f"dense=True is not allowed with init='recycle' here: the twin would be {share:.2f} times as wide as the "
            "MLP that it is made from. Take fewer slots, or init='copy'."
        )
    return ExpertInit("recycle", sampling=config.sampling, num_core=1, core_ratio=share)


def _tokens(backbone: Any) -> int | None:
    """Tokens of an image of the size that a ViT was built for, its class token and registers included."""
    patches = getattr(getattr(backbone, "patch_embed", None), "num_patches", None)
    if patches is None or not hasattr(backbone, "blocks"):
        return None
    return patches + getattr(backbone, "num_prefix_tokens", 0)
