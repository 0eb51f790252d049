"""Soft MoE (Puigcerver et al. 2023, "From Sparse to Soft Mixtures of Experts"): experts compute mixtures of tokens."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "SoftMoEConfig": "config",
    "moe_layer": "layer",
    "build": "model",
    "from_jax": "jax",
    "to_jax": "jax",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
