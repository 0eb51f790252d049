"""Building a model of the family."""

from __future__ import annotations

from typing import Any

from torch import nn

from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inputs import expect_images
from moezoo.backbones.live import note_as_built
from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.models.attention_routing.network import AttentionRouting


def build(config: Any) -> nn.Module:
    """The model with fresh weights; of a pretrained transformer's configuration that transformer, its tokens routed."""
    if not isinstance(config, AttentionRoutingConfig):
        from moezoo.models.attention_routing.vit import build_vit

        return build_vit(config)
    return note_as_built(allow_empty_batches(expect_images(AttentionRouting(config))))
