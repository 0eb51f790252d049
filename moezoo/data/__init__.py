"""Data sets by name, prepared for a model: ``load_dataset("digits", **input_options(model))``.

Three kinds: :class:`Splits` (images and labels), :class:`CaptionedSplits` (images and sentences) and
:class:`ReidSplits` (identities seen by several cameras, in one or three spectra).
Torch is loaded only by what needs it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moezoo.lazy import lazy_names

_EXPORTS = {
    "load_dataset": ".load",
    "input_options": ".load",
    "resolved_options": ".load",
    "register_dataset": ".load",
    "Splits": ".splits",
    "ImageTensors": ".splits",
    "CaptionedImages": ".captioned",
    "CaptionedSplits": ".captioned",
    "ReidPart": ".reid.splits",
    "ReidSplits": ".reid.splits",
    "ImageItems": ".items",
    "LabelledImages": ".items",
    "Skipped": ".skipped",
    "read_image": ".images",
    "PlainInput": ".options",
    "ImageInput": ".options",
    "Augmentation": ".options",
    "HeldOut": ".options",
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
__getattr__ = lazy_names(__name__, _EXPORTS)
