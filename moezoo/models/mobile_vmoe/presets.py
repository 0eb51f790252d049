"""Registered names of Mobile V-MoE, after the paper's: layers x width. No torch here.

10 experts in the last 2 blocks, of which an image uses 1. The paper has one router for all MoE layers; here each has
its own, with 1,920 parameters more in ``12x192``.
"""

from __future__ import annotations

from typing import Any

from moezoo.models.mobile_vmoe.config import MobileVMoEConfig
from moezoo.models.upcycled.archs import answer_to_timm
from moezoo.registry import register_model

VARIANTS: dict[str, dict[str, Any]] = {"top2": {"top_k": 2}, "dense": {"dense": True}}
any_config = answer_to_timm("mobile_vmoe", MobileVMoEConfig, VARIANTS)


@register_model("mobile_vmoe/12x192", variants=VARIANTS, weights="backbone")
def mobile_vmoe_12x192() -> MobileVMoEConfig:
    """timm's ViT-Tiny with 11.0 M parameters, of which an image uses 5.7 M."""
    return any_config("vit_tiny")


@register_model("mobile_vmoe/3x64", variants=VARIANTS)
def mobile_vmoe_3x64() -> MobileVMoEConfig:
    """54 million multiply-adds per image, the paper's smallest budget."""
    return MobileVMoEConfig(backbone_args={"embed_dim": 64, "depth": 3, "num_heads": 1})


@register_model("mobile_vmoe/digits", variants={"dense": {"dense": True}})
def mobile_vmoe_digits() -> MobileVMoEConfig:
    """Scikit-learn's digits. Trains in about a minute on two cores: ``moezoo train mobile_vmoe/digits``."""
    return MobileVMoEConfig(model_name="moezoo_vit_digits", num_classes=10, in_chans=1, num_experts=5)
