"""Saving models, and getting stored ones back safely. Torch is loaded only by what needs it."""

from __future__ import annotations

from moezoo.lazy import lazy_names

_EXPORTS = {
    "save_pretrained": ".save",
    "push_to_hub": ".push",
    "push_folder": ".push",
    "pull_model": ".pull",
    "convert_pth": ".convert",
    "read_jax": ".jax_files",
    "write_jax": ".jax_files",
    "save_single_file": ".single_file",
    "read_single_file": ".single_file",
    "load_weights": ".load",
    "check_header": ".header",
    "compare": ".header",
    "header_shapes": ".header",
    "model_shapes": ".header",
    "StoredModel": ".stored_model",
    "read_stored": ".stored",
    "fetch_file": ".fetch",
    "backbone_file": ".backbone",
    "check_writable": ".files",
    "model_card": ".card",
}

__all__ = list(_EXPORTS)
__getattr__ = lazy_names(__name__, _EXPORTS)
