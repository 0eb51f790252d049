"""The image processor that prepares images as timm prepares them for evaluation."""

from __future__ import annotations

import json
from typing import Any

from transformers import BitImageProcessor

from moezoo.errors import ConfigError
from moezoo.hub.processor import processor_text
from moezoo.transformers.config import MoeZooConfig


def image_processor(model: Any) -> BitImageProcessor:
    """For a model or a configuration of :mod:`moezoo.transformers`, or a model of moezoo.

    Its ``save_pretrained`` writes the ``preprocessor_config.json`` that ``AutoImageProcessor`` and ``pipeline`` read
    without moezoo. Resize the shorter side, crop the centre, normalise; it differs from timm's by rounding alone (of
    pixels, and of a margin that is not even).

    Raises:
        ConfigError: The model does not say how its images are prepared.
    """
    config = model if isinstance(model, MoeZooConfig) else getattr(model, "config", None)
    if not isinstance(config, MoeZooConfig):
        config = MoeZooConfig.of(model)
    text = processor_text(config.data)
    if text is None:
        stated = ", ".join(config.data) or "nothing"
        raise ConfigError(f"input_size, mean and std have to be known to prepare images; config.data states {stated}.")
    settings = json.loads(text)
    settings.pop("image_processor_type")
    return BitImageProcessor(**settings)
