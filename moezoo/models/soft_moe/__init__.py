"""Soft MoE (Puigcerver et al. 2023, "From Sparse to Soft Mixtures of Experts"): experts compute mixtures of tokens."""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "SoftMoEConfig": ".config",
    "moe_layer": ".layer",
    "build": ".model",
    "from_jax": ".jax",
    "to_jax": ".jax",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
