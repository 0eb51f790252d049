"""Swin-MoE (Hwang et al. 2022, "Tutel"): experts in every second block of a Swin Transformer's last two stages."""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "SwinMoEConfig": ".config",
    "build": ".model",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
