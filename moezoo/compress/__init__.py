"""Smaller models: int8 weights, fewer hidden units, fewer experts, and answers that are computed once."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "quantize": "moezoo.compress.quantising",
    "dequantize": "moezoo.compress.quantising",
    "is_quantized": "moezoo.compress.quantising",
    "prune_hidden": "moezoo.compress.hidden",
    "prune_expert_networks": "moezoo.compress.hidden",
    "PruningReport": "moezoo.compress.hidden",
    "prune_experts": "moezoo.moe.surgery",
    "size_of": "moezoo.compress.size",
    "Size": "moezoo.compress.size",
    "CachedMoE": "moezoo.compress.cached",
    "CacheInfo": "moezoo.compress.cached",
    "compression_table": "moezoo.compress.table",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'moezoo.compress' has no attribute {name!r}")
