"""Registered names of token routing in pretrained transformers. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.models.attention_routing.config_vit import AttentionRoutingViTConfig
from moezoo.registry import OpenArchs, register_model, register_open_archs

SHORT_NAMES = {f"vit_{size}": f"vit_{size}_patch16_224" for size in ("tiny", "small", "base", "large")}
VARIANTS: dict[str, dict[str, Any]] = {
    "last_half": {"inject_layers": "last_half"},
    "routed": {"budget": None},
    "cheap_compute": {"budget": 0.0},
    "random_routing": {"score": "random"},
    "amod": {"routes": "block", "inject_layers": "every2", "budget": None, "fraction": 0.5},
}
"""By default every block routes, at a budget of 1, which is timm's model. ``routed`` leaves the share to the threshold,
as training needs; ``cheap_compute`` gives every token the small MLPs, ``random_routing`` draws lots in place of
attention. ``amod`` is the mixture of depths that Gadhikar et al. 2024 call A-MoD: half of each image's tokens skip
every second block."""


def any_config(arch: str) -> AttentionRoutingViTConfig:
    """The configuration of ``attention_routing/<any timm architecture>``."""
    return AttentionRoutingViTConfig(model_name=SHORT_NAMES.get(arch, arch))


def _is_known(arch: str) -> bool:
    from moezoo.backbones.timm_models import is_architecture

    return is_architecture(SHORT_NAMES.get(arch, arch))


def _timm_archs() -> list[str]:
    from moezoo.backbones.timm_models import architectures

    return [*SHORT_NAMES, *(name for name in architectures() if "vit" in name or "eva" in name)]


register_open_archs("attention_routing", OpenArchs(any_config, _is_known, _timm_archs, VARIANTS))


@register_model(variants=VARIANTS, weights="backbone")
def attention_routing_vit_tiny() -> AttentionRoutingViTConfig:
    return any_config("vit_tiny")


@register_model(variants=VARIANTS, weights="backbone")
def attention_routing_vit_small() -> AttentionRoutingViTConfig:
    """timm's ViT-S/16 at budget 1, bit for bit; ``model.set_budget(0.34)`` takes 30 % off its FLOPs."""
    return any_config("vit_small")


@register_model(variants=VARIANTS, weights="backbone")
def attention_routing_vit_base() -> AttentionRoutingViTConfig:
    return any_config("vit_base")
