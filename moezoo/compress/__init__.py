"""Smaller models: int8 weights, fewer hidden units, fewer experts, and answers that are computed once."""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "quantize": ".quantising",
    "dequantize": ".quantising",
    "is_quantized": ".quantising",
    "prune_hidden": ".hidden",
    "prune_expert_networks": ".hidden",
    "PruningReport": ".hidden",
    "prune_experts": "moezoo.moe.surgery",
    "size_of": ".size",
    "Size": ".size",
    "CachedMoE": ".cached",
    "CacheInfo": ".cached",
    "compression_table": ".table",
}

__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
