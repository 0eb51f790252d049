"""Building a Swin-MoE."""

from __future__ import annotations

from torch import nn

from moezoo.models.swin_moe.config import SwinMoEConfig
from moezoo.models.upcycled.build import build_top_k


def build(config: SwinMoEConfig) -> nn.Module:
    """The model with fresh weights.

    Raises:
        UnknownModelError: There is no such backbone.
        ConfigError, InjectionError: A field does not fit the backbone.
    """
    return build_top_k(config)
