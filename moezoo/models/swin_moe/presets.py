"""Registered names of Swin-MoE. No torch here.

As in the paper's table 11, but for its 21,841 classes of ImageNet-22K (``num_classes=21841``): images of 192 x 192,
windows of 12 x 12, one expert per token, room for 1.25 times an even share. The backbone is timm's Swin Transformer,
with a table of position biases, where the released code computes the biases by a small network; the second layers of
experts and MLPs have biases, which there are held at zero or left out.
"""

from __future__ import annotations

from typing import Any

from moezoo.models.swin_moe.config import SwinMoEConfig
from moezoo.registry import register_model

SHORT_NAMES = {size: f"swin_{size}_patch4_window7_224" for size in ("small", "base")}
VARIANTS: dict[str, dict[str, Any]] = {
    "e8": {"num_experts": 8},
    "e16": {"num_experts": 16},
    "e32": {"num_experts": 32},
    "cosine": {"num_experts": 32, "router": "cosine"},
    "dense": {"dense": True},
}


def _config(size: str, drop_path_rate: float) -> SwinMoEConfig:
    return SwinMoEConfig(
        model_name=SHORT_NAMES[size], backbone_args={"window_size": 12}, img_size=192, drop_path_rate=drop_path_rate
    )


@register_model(variants={**VARIANTS, "e64": {"num_experts": 64}, "e128": {"num_experts": 128}}, weights="backbone")
def swin_moe_small() -> SwinMoEConfig:
    """10 of the 24 MLPs of a Swin-S are 8 experts: 173 M parameters, 66 M of which a token uses."""
    return _config("small", 0.2)


@register_model(variants={**VARIANTS, "e32_top2": {"num_experts": 32, "top_k": 2}}, weights="backbone")
def swin_moe_base() -> SwinMoEConfig:
    return _config("base", 0.3)
