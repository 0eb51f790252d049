"""Building a V-MoE."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn

from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inputs import expect_images
from moezoo.backbones.live import note_as_built
from moezoo.models.moe_vit.vit import MoEViT
from moezoo.models.upcycled.build import build_top_k
from moezoo.models.vmoe.config_upcycled import VMoEUpcycledConfig
from moezoo.models.vmoe.layer import moe_layer


def build(config: Any) -> nn.Module:
    """The model with fresh weights; of an upcycled configuration a timm backbone with experts in it."""
    if isinstance(config, VMoEUpcycledConfig):
        return build_top_k(config)
    return note_as_built(allow_empty_batches(expect_images(MoEViT(config, partial(moe_layer, config)))))
