"""Soft MoE's weights from google-research/vmoe, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from moezoo.models.moe_vit.jax import convert
from moezoo.models.moe_vit.jax.convert import to_jax
from moezoo.models.soft_moe.config import SoftMoEConfig
from moezoo.models.soft_moe.model import build

__all__ = ["from_jax", "to_jax"]


def from_jax(
    params: Mapping[str, Any],
    config: Mapping[str, Any] | SoftMoEConfig,
    *,
    img_size: int | tuple[int, int] | None = None,
    **overrides: Any,
) -> nn.Module:
    """The model that google-research/vmoe computes with these parameters.

    The reference rounds what experts get and give to bfloat16, always; ``dispatch_dtype=None`` does not. Arguments, the
    result and errors are those of :func:`moezoo.models.vmoe.from_jax`, with :class:`SoftMoEConfig` for the fields.
    """
    return convert.from_jax(
        params, config, family="soft_moe", cls=SoftMoEConfig, build=build, img_size=img_size, overrides=overrides
    )
