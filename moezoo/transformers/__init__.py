"""``import moezoo.transformers``: moezoo's models for transformers' Auto classes, ``Trainer`` and ``pipeline``.

Nothing of transformers changes before this import, and no code is ever fetched from the Hub. Folders of two kinds are
read by ``from_pretrained``: those of ``MoeZooForImageClassification.save_pretrained``, transformers' own layout, and
those of :func:`moezoo.save_pretrained`.
"""

from __future__ import annotations

from transformers import AutoConfig, AutoModelForImageClassification

from moezoo.transformers.config import MoeZooConfig
from moezoo.transformers.model import MoeZooForImageClassification
from moezoo.transformers.processor import image_processor

__all__ = ["MoeZooConfig", "MoeZooForImageClassification", "image_processor"]

AutoConfig.register(MoeZooConfig.model_type, MoeZooConfig, exist_ok=True)
AutoModelForImageClassification.register(MoeZooConfig, MoeZooForImageClassification, exist_ok=True)
