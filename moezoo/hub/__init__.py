"""Saving models, and getting stored ones back safely. Torch is loaded only by what needs it."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "save_pretrained": "moezoo.hub.save",
    "push_to_hub": "moezoo.hub.push",
    "push_folder": "moezoo.hub.push",
    "pull_model": "moezoo.hub.pull",
    "convert_pth": "moezoo.hub.convert",
    "read_jax": "moezoo.hub.jax_files",
    "write_jax": "moezoo.hub.jax_files",
    "save_single_file": "moezoo.hub.single_file",
    "read_single_file": "moezoo.hub.single_file",
    "load_weights": "moezoo.hub.load",
    "check_header": "moezoo.hub.header",
    "compare": "moezoo.hub.header",
    "header_shapes": "moezoo.hub.header",
    "model_shapes": "moezoo.hub.header",
    "StoredModel": "moezoo.hub.stored",
    "read_stored": "moezoo.hub.stored",
    "fetch_file": "moezoo.hub.fetch",
    "backbone_file": "moezoo.hub.backbone",
    "check_writable": "moezoo.hub.files",
    "model_card": "moezoo.hub.card",
}

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'moezoo.hub' has no attribute {name!r}")
