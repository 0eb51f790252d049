"""V-MoE (Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts"): a ViT with MLPs of experts."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "VMoEConfig": "config",
    "moe_layer": "layer",
    "build": "model",
    "from_jax": "jax",
    "to_jax": "jax",
    "convert_checkpoint": "functions",
    "convert_to_jax": "functions",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
