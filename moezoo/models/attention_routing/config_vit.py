"""Configuration of token routing in a pretrained transformer. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from moezoo.backbones.tokens.config import TokenRoutingConfig
from moezoo.config import STRICT, option
from moezoo.models.timm_backbone import Place, TimmBackboneConfig


@dataclass(frozen=True)
class AttentionRoutingViTConfig(TimmBackboneConfig, TokenRoutingConfig):
    """A timm transformer whose tokens choose between its own MLPs and small ones. ``None`` keeps timm's default."""

    __pydantic_config__ = STRICT

    inject_layers: int | str | tuple[Place, ...] | None = option(
        "all", "blocks that route their tokens: all, last, last_half, every2, … or a list of indices and patterns"
    )
