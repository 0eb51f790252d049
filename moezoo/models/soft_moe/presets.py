"""Registered names of Soft MoE. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.models.moe_vit.config import DIGITS
from moezoo.models.soft_moe import presets_upcycled  # noqa: F401  (registers those of timm's backbones)
from moezoo.models.soft_moe.config import SoftMoEConfig
from moezoo.registry import register_model

SIZES: dict[str, dict[str, Any]] = {
    "s": {"hidden_size": 384, "num_layers": 12, "num_heads": 6, "mlp_dim": 1536},
    "b": {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "mlp_dim": 3072},
    "l": {"hidden_size": 1024, "num_layers": 24, "num_heads": 16, "mlp_dim": 4096},
    "h": {"hidden_size": 1280, "num_layers": 32, "num_heads": 16, "mlp_dim": 5120},
}
DENSE: dict[str, dict[str, Any]] = {"dense": {"dense": True}}


def _config(size: str, patch_size: int, num_experts: int) -> SoftMoEConfig:
    return SoftMoEConfig(patch_size=patch_size, num_experts=num_experts, dispatch_dtype="bfloat16", **SIZES[size])


@register_model(variants=DENSE)
def soft_moe_s16() -> SoftMoEConfig:
    return _config("s", 16, 128)


@register_model(variants=DENSE)
def soft_moe_s14() -> SoftMoEConfig:
    return _config("s", 14, 256)


@register_model(variants=DENSE)
def soft_moe_b16() -> SoftMoEConfig:
    return _config("b", 16, 128)


@register_model(variants=DENSE)
def soft_moe_l16() -> SoftMoEConfig:
    return _config("l", 16, 128)


@register_model(variants=DENSE)
def soft_moe_h14() -> SoftMoEConfig:
    """With 256 experts in each of 16 layers; ``num_experts=128`` is the paper's other one."""
    return _config("h", 14, 256)


@register_model(variants=DENSE)
def soft_moe_digits() -> SoftMoEConfig:
    """Scikit-learn's digits. Trains in about a minute on two cores: ``moezoo train soft_moe/digits``."""
    return SoftMoEConfig(
        **DIGITS,
        num_experts=16,
    )
