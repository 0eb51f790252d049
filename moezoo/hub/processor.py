"""``preprocessor_config.json``: how images are prepared, in the words of transformers. No torch here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

_RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def processor_text(data: Mapping[str, Any] | None) -> str | None:
    """What transformers' image processor needs to prepare images as timm's evaluation transform does.

    The shorter side (both, with ``crop_mode="squash"``) is resized to the model's size over ``crop_pct``, the middle is
    cut out, and values from 0 to 1 are normalised.

    Args:
        data: The ``data`` of ``config.json``.

    Returns:
        The file's text; ``None`` where size, mean or deviation are not stated, or transformers has no words for the
        ``crop_mode`` (``border``).
    """
    data = data or {}
    size, mean, std = data.get("input_size"), data.get("mean"), data.get("std")
    mode = data.get("crop_mode") or "center"
    if not size or not mean or not std or mode not in ("center", "squash"):
        return None
    channels, height, width = size
    resized = [math.floor(side / (data.get("crop_pct") or 1.0)) for side in (height, width)]
    squashed = {"height": resized[0], "width": resized[1]}
    content = {
        "image_processor_type": "BitImageProcessor",  # transformers' word for resize, centre crop, normalise
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": squashed if mode == "squash" else {"shortest_edge": min(resized)},
        "resample": _RESAMPLE.get(data.get("interpolation") or "bicubic", 3),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }
    return json.dumps(content, indent=2) + "\n"
