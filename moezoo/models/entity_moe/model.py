"""Building an EntityMoE model: a timm or transformers backbone with adapters."""

from __future__ import annotations

from torch import nn

from moezoo.backbones.create import create_backbone
from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inject import inject
from moezoo.backbones.inputs import expect_images
from moezoo.backbones.live import note_as_built
from moezoo.models.entity_moe.adapter import ENTITY
from moezoo.models.entity_moe.config import EntityMoEConfig


def build(config: EntityMoEConfig) -> nn.Module:
    """The model with fresh weights, equal to its backbone bit for bit.

    Raises:
        UnknownModelError: There is no such backbone.
        ConfigError, InjectionError: A field does not fit the backbone.
    """
    where = config.inject_layers
    # Decoded lists are tuples; as a list, two indices are two blocks, not a (stage, block) pair.
    backbone = create_backbone(config)
    inject(backbone, list(where) if isinstance(where, tuple) else where, ENTITY, config)
    return note_as_built(allow_empty_batches(expect_images(backbone)))
