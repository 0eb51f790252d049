"""Data sets by name, prepared for a model: ``load_dataset("digits", **input_options(model))``.

Three kinds: :class:`Splits` (images and labels), :class:`CaptionedSplits` (images and sentences) and
:class:`ReidSplits` (identities seen by several cameras, in one or three spectra).
Torch is loaded only by what needs it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "load_dataset": "moezoo.data.load",
    "input_options": "moezoo.data.load",
    "resolved_options": "moezoo.data.load",
    "register_dataset": "moezoo.data.load",
    "Splits": "moezoo.data.splits",
    "ImageTensors": "moezoo.data.splits",
    "CaptionedImages": "moezoo.data.captioned",
    "CaptionedSplits": "moezoo.data.captioned",
    "ReidPart": "moezoo.data.reid.splits",
    "ReidSplits": "moezoo.data.reid.splits",
    "ImageItems": "moezoo.data.items",
    "LabelledImages": "moezoo.data.items",
    "Skipped": "moezoo.data.skipped",
    "read_image": "moezoo.data.images",
    "PlainInput": "moezoo.data.options",
    "ImageInput": "moezoo.data.options",
    "Augmentation": "moezoo.data.options",
    "HeldOut": "moezoo.data.options",
}

if TYPE_CHECKING:
    from moezoo.data.captioned import CaptionedImages, CaptionedSplits
    from moezoo.data.images import read_image
    from moezoo.data.items import ImageItems, LabelledImages
    from moezoo.data.load import input_options, load_dataset, register_dataset, resolved_options
    from moezoo.data.options import Augmentation, HeldOut, ImageInput, PlainInput
    from moezoo.data.reid.splits import ReidPart, ReidSplits
    from moezoo.data.skipped import Skipped
    from moezoo.data.splits import ImageTensors, Splits

__all__ = [
    "load_dataset",
    "input_options",
    "resolved_options",
    "register_dataset",
    "Splits",
    "ImageTensors",
    "CaptionedImages",
    "CaptionedSplits",
    "ReidPart",
    "ReidSplits",
    "ImageItems",
    "LabelledImages",
    "Skipped",
    "read_image",
    "PlainInput",
    "ImageInput",
    "Augmentation",
    "HeldOut",
]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'moezoo.data' has no attribute {name!r}")
