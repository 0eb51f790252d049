"""Building a Diff-MoE model."""

from __future__ import annotations

from torch import nn

from moezoo.backbones.empty import allow_empty_batches
from moezoo.backbones.inputs import expect_images
from moezoo.backbones.live import note_as_built
from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.models.diff_moe.multimodal import MultiModalMoE


def build(config: DiffMoEConfig) -> nn.Module:
    """The model with fresh weights: a :class:`MultiModalMoE`, or with ``captioner`` a ``MoECaptioner``.

    Raises:
        ConfigError: A field does not fit another.
    """
    model: nn.Module
    if config.captioner:
        from moezoo.models.diff_moe.captioner import MoECaptioner

        model = MoECaptioner(config)
    else:
        model = MultiModalMoE(config)
    return note_as_built(allow_empty_batches(expect_images(model)))
