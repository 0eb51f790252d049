"""Mobile V-MoE (Daxberger et al. 2023): a small ViT that sends whole images to experts."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "MobileVMoEConfig": "config",
    "SuperClassLoss": "superclass",
    "build": "model",
}
__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(f"{__name__}.{_EXPORTS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
