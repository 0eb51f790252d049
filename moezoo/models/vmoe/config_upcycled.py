"""Configuration of V-MoE made from a pretrained ViT. No torch here."""

from __future__ import annotations

from dataclasses import dataclass

from moezoo.config import STRICT
from moezoo.models.upcycled.config import TopKUpcycledConfig


@dataclass(frozen=True)
class VMoEUpcycledConfig(TopKUpcycledConfig):
    """A timm ViT with V-MoE's router and losses, in evaluation the ViT itself at step 0: dropless, weights that sum to
    one (Komatsuzaki et al. 2023, "Sparse Upcycling", section 3)."""

    __pydantic_config__ = STRICT
