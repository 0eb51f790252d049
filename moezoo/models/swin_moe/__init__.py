"""Swin-MoE (Hwang et al. 2022, "Tutel"): experts in every second block of a Swin Transformer's last two stages."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "SwinMoEConfig": "config",
    "build": "model",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
