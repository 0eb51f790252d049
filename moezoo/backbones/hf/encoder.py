"""Which part of a transformers model sees the images."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

_PARTS = ("vision_encoder", "vision_model", "vision_tower", "detector_model")


def is_transformers(model: Any) -> bool:
    """Whether ``model`` is a ``PreTrainedModel``; never imports transformers."""
    library = sys.modules.get("transformers")
    return library is not None and isinstance(model, library.PreTrainedModel)


def vision_part(model: nn.Module) -> tuple[str, nn.Module]:
    """Path and module of the part that takes images alone; ``""`` and the model itself where that is all of it.

    SAM, CLIP and their like also take prompts or text, which a forward on images would lack.
    """
    path: str = "model" if getattr(model, "wraps_transformers", False) else ""
    part: Any = model.get_submodule(path)
    while is_transformers(part):
        inner = next((name for name in _PARTS if is_transformers(getattr(part, name, None))), None)
        if inner is None:
            break
        path, part = f"{path}.{inner}".removeprefix("."), getattr(part, inner)
    return path, part
