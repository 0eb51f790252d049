"""Registered names of V-MoE made from a pretrained ViT. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.models.upcycled.archs import answer_to_timm
from moezoo.models.vmoe.config_upcycled import VMoEUpcycledConfig
from moezoo.registry import register_model

VARIANTS: dict[str, dict[str, Any]] = {
    "last2": {"moe_layers": "last2"},
    "every2": {"moe_layers": "every2"},
    "last_half": {"moe_layers": "last_half"},
    "dense": {"dense": True},
}
any_config = answer_to_timm("vmoe", VMoEUpcycledConfig, VARIANTS)


@register_model(variants=VARIANTS, weights="backbone")
def vmoe_vit_tiny() -> VMoEUpcycledConfig:
    return any_config("vit_tiny")


@register_model(variants=VARIANTS, weights="backbone")
def vmoe_vit_small() -> VMoEUpcycledConfig:
    """timm's ViT-S/16 with 8 experts in 2 blocks, of which a token uses 2; pretrained, the ViT itself at step 0."""
    return any_config("vit_small")


@register_model(variants=VARIANTS, weights="backbone")
def vmoe_vit_base() -> VMoEUpcycledConfig:
    return any_config("vit_base")


@register_model(variants=VARIANTS, weights="backbone")
def vmoe_vit_large() -> VMoEUpcycledConfig:
    return any_config("vit_large")
