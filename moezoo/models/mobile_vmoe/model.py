"""Building a Mobile V-MoE."""

from __future__ import annotations

from torch import nn

from moezoo.models.mobile_vmoe.config import MobileVMoEConfig
from moezoo.models.upcycled.build import build_top_k


def build(config: MobileVMoEConfig) -> nn.Module:
    """The model with fresh weights.

    Raises:
        UnknownModelError: There is no such backbone.
        ConfigError, InjectionError: A field does not fit the backbone.
    """
    return build_top_k(config)
