"""V-MoE (Riquelme et al. 2021, "Scaling Vision with Sparse Mixture of Experts"): a ViT with MLPs of experts."""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "VMoEConfig": ".config",
    "moe_layer": ".layer",
    "build": ".model",
    "from_jax": ".jax",
    "to_jax": ".jax",
    "convert_checkpoint": ".functions",
    "convert_to_jax": ".functions",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
