"""Registered names of V-MoE. No torch here.

Sizes are the paper's with 32 experts; released checkpoints have 8 (``num_experts=8``). The bare names are Every-2 as in
the paper's tables, but for H/14, which is Last-5.
"""

from __future__ import annotations

from typing import Any

from moezoo.models.moe_vit.config import DIGITS
from moezoo.models.vmoe import presets_upcycled  # noqa: F401  (registers those of timm's backbones)
from moezoo.models.vmoe.config import VMoEConfig
from moezoo.registry import register_model

SIZES: dict[str, dict[str, Any]] = {
    "s": {"hidden_size": 512, "num_layers": 8, "num_heads": 8, "mlp_dim": 2048},
    "b": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072},
    "l": {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "mlp_dim": 4096},
    "h": {"hidden_size": 1280, "num_layers": 32, "num_heads": 16, "mlp_dim": 5120},
}
"""Smaller than other ViT-S: eight blocks, but wider."""

EXPERT_CHOICE: dict[str, Any] = {
    "router": "expert_choice",
    "capacity_factor": 1.0,
    "eval_capacity_factor": None,
    "capacity_rounding": "round",
    "capacity_multiple_of": 1,
    "group_images": 1,
}
"""As in the comparisons of the Soft MoE paper: every expert takes its share of one image's tokens."""


def _variants(last: int) -> dict[str, dict[str, Any]]:
    return {
        f"last{last}": {"moe_layers": f"last{last}"},
        "every2": {"moe_layers": "every2"},
        "expert_choice": EXPERT_CHOICE,
        "dense": {"dense": True},
    }


def _config(size: str, patch_size: int, **more: Any) -> VMoEConfig:
    width = SIZES[size]["hidden_size"]
    return VMoEConfig(
        patch_size=patch_size, representation_size=width, dispatch_dtype="bfloat16", **{**SIZES[size], **more}
    )


@register_model(variants=_variants(2))
def vmoe_s32() -> VMoEConfig:
    return _config("s", 32)


@register_model(variants=_variants(2))
def vmoe_b32() -> VMoEConfig:
    return _config("b", 32)


@register_model(variants=_variants(2))
def vmoe_b16() -> VMoEConfig:
    return _config("b", 16)


@register_model(variants=_variants(2))
def vmoe_l32() -> VMoEConfig:
    return _config("l", 32)


@register_model(variants=_variants(2))
def vmoe_l16() -> VMoEConfig:
    return _config("l", 16)


@register_model(variants=_variants(5))
def vmoe_h14() -> VMoEConfig:
    return _config("h", 14, moe_layers="last5")


@register_model(variants={"expert_choice": EXPERT_CHOICE, "dense": {"dense": True}})
def vmoe_digits() -> VMoEConfig:
    """Scikit-learn's digits, with room for every token in evaluation.

    Trains in about a minute on two cores: ``moezoo train vmoe/digits``.
    """
    return VMoEConfig(
        **DIGITS,
        num_experts=8,
        eval_capacity_factor=4.0,
        expert_dropout=0.1,
    )
