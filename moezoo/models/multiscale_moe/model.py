"""Building a model of the family."""

from __future__ import annotations

from torch import nn

from moezoo.backbones.create import create_backbone
from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.live import note_as_built
from moezoo.models.multiscale_moe.backbone import read_layout
from moezoo.models.multiscale_moe.config import MultiScaleMoEConfig
from moezoo.models.multiscale_moe.reid import MultiScaleReid


def build(config: MultiScaleMoEConfig) -> nn.Module:
    """The model with fresh weights.

    Raises:
        UnknownModelError: There is no such backbone.
        ConfigError: A field does not fit the backbone, or scales do not fit its grid of tokens.
    """
    number = 1 if config.shared_backbone else config.num_modalities
    trunks = [create_backbone(config.of_backbone()) for _ in range(number)]
    layout = read_layout(trunks[0], (config.in_chans, *config.sides), config.model_name)
    return note_as_built(allow_empty_batches(MultiScaleReid(config, trunks, layout)))
