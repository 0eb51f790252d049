"""Mobile V-MoE (Daxberger et al. 2023): a small ViT that sends whole images to experts."""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "MobileVMoEConfig": ".config",
    "SuperClassLoss": ".superclass",
    "build": ".model",
}
__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
