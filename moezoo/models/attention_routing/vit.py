"""Building a pretrained transformer that routes its tokens."""

from __future__ import annotations

from torch import nn

from moezoo.backbones.create import create_backbone
from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inputs import expect_images
from moezoo.backbones.live import note_as_built
from moezoo.backbones.tokens.route import route_tokens
from moezoo.models.attention_routing.config_vit import AttentionRoutingViTConfig


def build_vit(config: AttentionRoutingViTConfig) -> nn.Module:
    """The model with fresh weights; at budget 1 it equals its backbone bit for bit.

    Raises:
        UnknownModelError: There is no such backbone.
        ConfigError, InjectionError: A field does not fit the backbone.
    """
    where = config.inject_layers
    # Decoded lists are tuples; as a list, two indices are two blocks, not a (stage, block) pair.
    backbone = create_backbone(config)
    route_tokens(backbone, list(where) if isinstance(where, tuple) else where, config)
    return note_as_built(allow_empty_batches(expect_images(backbone)))
