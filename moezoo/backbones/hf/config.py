"""From a family's fields to a transformers configuration.

``backbone_args`` of an ``hf:`` backbone holds fields of the transformers configuration, in its own words. Complete it
is when it names a ``model_type``: then everything is known and nothing has to be fetched. What the Hub's
``preprocessor_config.json`` says stands beside it under ``image_processor``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from moezoo.backbones.hf.names import KNOWN
from moezoo.config import merge
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean

IMAGE_PROCESSOR = "image_processor"
# Where the code or the file lies, and in which precision it was stored, is not what a model is.
_NOT_ARCHITECTURE = ("auto_map", "_name_or_path", "dtype", "torch_dtype", "transformers_version")


def known_args(config: Any) -> dict[str, Any]:
    """``backbone_args`` over what moezoo itself knows of this backbone; incomplete without a ``model_type``."""
    return merge(KNOWN.get(config.model_name, {}), config.backbone_args)


def is_complete(config: Any) -> bool:
    """Whether the backbone can be built without asking the Hub."""
    return "model_type" in known_args(config)


def completed(config: Any, published: Mapping[str, Any], image_processor: Mapping[str, Any] | None) -> Any:
    """``config`` with the Hub's ``config.json`` under its own ``backbone_args``."""
    base = {key: value for key, value in published.items() if key not in _NOT_ARCHITECTURE}
    if image_processor:
        base[IMAGE_PROCESSOR] = dict(image_processor)
    return dataclasses.replace(config, backbone_args=merge(base, config.backbone_args))


def published_classes(args: Mapping[str, Any]) -> int:
    """Classes of the published classifier; 0 where the published model has none."""
    trained = any(str(name).endswith("ForImageClassification") for name in args.get("architectures") or ())
    if not trained:
        return 0
    labels = args.get("id2label")
    return len(labels) if isinstance(labels, Mapping) else int(args.get("num_labels", 2))


def transformers_config(config: Any) -> Any:
    """The ``PretrainedConfig`` of a complete configuration, with its ``img_size``, ``in_chans`` and ``drop_path_rate``.

    Raises:
        ConfigError: It is not complete, transformers has no such model, or a field means nothing to it.
    """
    from transformers import CONFIG_MAPPING

    args = known_args(config)
    args.pop(IMAGE_PROCESSOR, None)
    kind = args.pop("model_type", None)
    if kind is None:
        raise ConfigError(
            f"model_name={config.model_name!r}: the sizes of this backbone are not known here. moezoo.create_model "
            "reads them from the Hub; backbone_args={'model_type': …} states them without it."
        )
    if kind not in CONFIG_MAPPING:
        raise ConfigError(f"transformers has no model_type={kind!r}.{did_you_mean(str(kind), CONFIG_MAPPING)}")
    try:
        result = CONFIG_MAPPING[kind].from_dict(args)
    except Exception as error:  # transformers checks its configurations with errors of several kinds
        raise ConfigError(f"transformers refuses this configuration of {kind!r}: {error!s:.300}") from error
    _set_images(result, config, kind)
    if config.drop_path_rate is not None:
        _set(result, "drop_path_rate", config.drop_path_rate, kind)
    for field in ("drop_rate", "global_pool"):
        if getattr(config, field) is not None:
            raise ConfigError(
                f"{field}={getattr(config, field)!r} is not possible for {config.model_name!r}: transformers has "
                "its own words for this, which backbone_args takes."
            )
    return result


def image_size(config: Any) -> tuple[int, int]:
    """(height, width) that a ``PretrainedConfig`` states, wherever in it; 224 where it states none."""
    for part in _parts(config):
        size = getattr(part, "image_size", None)
        if size is not None:
            return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return (224, 224)


def channels(config: Any) -> int:
    """Channels of the images that a ``PretrainedConfig`` states, wherever in it; 3 where it states none."""
    return next((part.num_channels for part in _parts(config) if hasattr(part, "num_channels")), 3)


def _parts(config: Any) -> list[Any]:
    """The configuration and, inside it, those of the part that sees images, innermost last."""
    parts = [config]
    while inner := next(
        (c for n in ("vision_config", "backbone_config", "detector_config") if (c := getattr(parts[-1], n, None))), None
    ):
        parts.append(inner)
    return parts


def _set_images(result: Any, config: Any, kind: str) -> None:
    if config.in_chans not in (None, channels(result)):
        _set(result, "num_channels", config.in_chans, kind)
    if config.img_size is not None:
        size = config.img_size if isinstance(config.img_size, int) else list(config.img_size)
        if isinstance(size, list) and size[0] == size[1]:
            size = size[0]
        _set(result, "image_size", size, kind)


def _set(result: Any, name: str, value: Any, kind: str) -> None:
    holders = [
        part for part in (*_parts(result), getattr(result, "prompt_encoder_config", None)) if hasattr(part, name)
    ]
    if not holders:
        raise ConfigError(f"{name}={value!r} is not possible: transformers' {kind!r} has no such field.")
    for holder in holders:
        like = getattr(holder, name)
        pair = isinstance(like, (list, tuple)) and isinstance(value, int)
        drawn = name == "image_size" and hasattr(holder, "image_embedding_size")  # SAM's prompts lie on its tokens
        if drawn and not isinstance(value, int):
            raise ConfigError(f"img_size={tuple(value)} is not possible: the images of {kind!r} are square.")
        try:
            setattr(holder, name, [value, value] if pair else value)
        except Exception as error:  # newer transformers checks the type of every field with errors of its own
            raise ConfigError(f"{name}={value!r} is not possible for transformers' {kind!r}: {error!s:.200}") from error
        if drawn:
            holder.image_embedding_size = value // holder.patch_size
