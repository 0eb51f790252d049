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

    The reference rounds what experts get and give to bfloat16, always; ``dispatch_dtype=None`` does not.

    Args:
        params: Arrays by ``/``-joined names (with ``params/`` before all of them, or without), or nested mappings.
        config: The reference's configuration of the model (``config.model``); what it leaves out has the reference's
            defaults. Or one of ours.
        img_size: Side of the images, or (height, width). By default what the table of positions fits, as square as can
            be. A table of another size is resized, as the reference does for fine-tuning, and groups of whole images
            stay that.
        **overrides: Fields of :class:`SoftMoEConfig`, over those of ``config``.

    Returns:
        The model in evaluation mode, in float32. It takes (B, C, H, W) images with values from -1 to 1.

    Raises:
        ConfigError: ``config`` has an unknown key or a value that has no counterpart here.
        WeightsMismatch: Arrays are missing, too many, of another shape or type, or not finite; all are listed.
    """
    return convert.from_jax(
        params, config, family="soft_moe", cls=SoftMoEConfig, build=build, img_size=img_size, overrides=overrides
    )
