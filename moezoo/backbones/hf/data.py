"""How images are prepared for a transformers backbone, in timm's words, so that ``timm.data`` answers for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from moezoo.backbones.hf.config import IMAGE_PROCESSOR, channels, image_size, known_args
from moezoo.backbones.hf.names import repo_id

_RESAMPLE = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


def data_description(config: Any, hf: Any) -> dict[str, Any]:
    """What timm calls ``pretrained_cfg``: source, size, mean, deviation and interpolation.

    Args:
        config: The family's configuration; its ``image_processor`` is the Hub's ``preprocessor_config.json``.
        hf: The ``PretrainedConfig`` built from it.
    """
    processor = known_args(config).get(IMAGE_PROCESSOR) or {}
    crop, resized = _side(processor.get("crop_size")), _side(processor.get("size"))
    cropped = bool(processor.get("do_center_crop", crop is not None)) and crop is not None
    shown = config.img_size is None and (crop if cropped else resized)
    sides = (shown, shown) if shown else image_size(hf)
    mean, std = processor.get("image_mean"), processor.get("image_std")
    return {
        "architecture": config.model_name,
        "tag": config.backbone_tag or "",
        "hf_hub_id": repo_id(config.model_name),
        "num_classes": config.num_classes or 0,
        "input_size": (channels(hf), *sides),
        "fixed_input_size": hf.model_type == "sam",
        "mean": _per_channel(mean or IMAGENET_DEFAULT_MEAN, channels(hf)),
        "std": _per_channel(std or IMAGENET_DEFAULT_STD, channels(hf)),
        "interpolation": _RESAMPLE.get(processor.get("resample", 2), "bilinear"),
        "crop_pct": crop / resized if cropped and resized and crop is not None else processor.get("crop_pct", 1.0),
        "classifier": "classifier",
    }


def _side(size: Any) -> int | None:
    """One side of a size, which transformers writes as a number or as a mapping."""
    if isinstance(size, Mapping):
        size = size.get("shortest_edge") or size.get("height") or size.get("longest_edge")
    return size if isinstance(size, int) else None


def _per_channel(values: Any, count: int) -> tuple[float, ...]:
    """One value per channel, else normalising would broadcast a grey image to three."""
    values = tuple(values)
    return values if len(values) == count else (sum(values) / len(values),) * count
