"""Building a Soft MoE."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inputs import expect_images
from moezoo.backbones.live import note_as_built
from moezoo.models.moe_vit.vit import MoEViT
from moezoo.models.soft_moe.config_upcycled import SoftMoEUpcycledConfig
from moezoo.models.soft_moe.layer import moe_layer
from moezoo.models.soft_moe.upcycled import build_soft


def build(config: Any) -> nn.Module:
    """The model with fresh weights; of an upcycled configuration a timm ViT with experts in it."""
    if isinstance(config, SoftMoEUpcycledConfig):
        return build_soft(config)
    return note_as_built(allow_empty_batches(expect_images(MoEViT(config, partial(moe_layer, config)))))
