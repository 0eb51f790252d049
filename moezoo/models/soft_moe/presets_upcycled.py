"""Registered names of Soft MoE made from a pretrained ViT. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.models.soft_moe.config_upcycled import SoftMoEUpcycledConfig
from moezoo.models.upcycled.archs import answer_to_timm
from moezoo.registry import register_model

VARIANTS: dict[str, dict[str, Any]] = {
    "last_half": {"moe_layers": "last_half"},
    "last2": {"moe_layers": "last2"},
    "jetpack": {
        "router": "sphero",
        "init": "recycle",
        "num_experts": 24,
        "capacity_factor": 1.5,
    },
    "dense": {"dense": True},
}
"""``jetpack`` is MoE Jetpack's (Zhu et al. 2024) core and universal experts, one to two, with its share of slots: one
and a half for every token, at three quarters of the MLPs' cost; theirs are 98 and 196 experts with one slot each."""
any_config = answer_to_timm("soft_moe", SoftMoEUpcycledConfig, VARIANTS)


@register_model(variants=VARIANTS, weights="backbone")
def soft_moe_vit_tiny() -> SoftMoEUpcycledConfig:
    return any_config("vit_tiny")


@register_model(variants=VARIANTS, weights="backbone")
def soft_moe_vit_small() -> SoftMoEUpcycledConfig:
    """timm's ViT-S/16 whose last 6 MLPs are 8 experts with as many slots as there are tokens, give or take a few."""
    return any_config("vit_small")


@register_model(variants=VARIANTS, weights="backbone")
def soft_moe_vit_base() -> SoftMoEUpcycledConfig:
    return any_config("vit_base")
