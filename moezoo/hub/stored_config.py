"""From ``config.json`` to a :class:`StoredModel`: every value is checked. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from moezoo.altered.said import Compression
from moezoo.config import decode
from moezoo.errors import ConfigError, MoeZooError, WeightsCorrupted
from moezoo.hub.schema import (
    CONFIG_NAME,
    DataConfig,
    PublishedBackbone,
    read_config_file,
    tokenizer_hash,
    typed,
    weights_hashes,
)
from moezoo.hub.stored_model import StoredModel
from moezoo.registry import model_config

LARGEST = 1_000_000
"""Largest whole number in the arguments of a stored model's backbone; a rotation's theta may be larger."""


def parse(source: str, path: Path, fetch: Callable[[str, str], Path], where: dict[str, Any]) -> StoredModel:
    """What the ``config.json`` at ``path`` says.

    Args:
        source: Whose it is, for messages.
        path: The file.
        fetch: From a file's name and its sha256 (``""`` where none is said) to where it lies on this machine.
        where: ``cache_dir`` and ``token`` for a backbone that is stored elsewhere.

    Raises:
        ConfigError: It is not what moezoo writes.
        UnknownModelError: It names a model that is not registered here.
    """
    place = f"{source}: {CONFIG_NAME}"
    data = read_config_file(path, place)
    name = typed(data, "name", str, place)
    hashes, tokenizer = weights_hashes(data, place), tokenizer_hash(data, place)
    values = typed(data, "config", dict, place)
    _refuse_huge(values.get("backbone_args"), f"{place}: backbone_args")
    try:
        config = decode(type(model_config(name)), values, where=place)
    except MoeZooError as error:
        if str(error).startswith(place):
            raise
        raise type(error)(f"{place}: {error}") from None
    labels = data.get("label_names")
    if labels is not None:
        if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
            raise ConfigError(f"{place}: label_names must be a list of strings or null")
        classes = getattr(config, "num_classes", None)
        if classes is not None and len(labels) != classes:
            raise ConfigError(f"{place}: label_names has {len(labels)} names, num_classes is {classes}")
    prepared = decode(DataConfig, _optional(data, "data", place) or {}, where=place)
    said = _optional(data, "backbone", place)
    backbone = None if said is None else decode(PublishedBackbone, said, where=f"{place}: backbone")
    altered = _optional(data, "compression", place)
    compression = None if altered is None else decode(Compression, altered, where=f"{place}: compression")

    def fetch_backbone() -> Any:
        from moezoo.hub.backbone import published_weights

        if backbone is None:
            raise WeightsCorrupted(f"{place}: no backbone is named")
        return published_weights(config, id=backbone.id, revision=backbone.revision, **where)

    return StoredModel(
        source=source,
        name=name,
        config=config,
        label_names=None if labels is None else tuple(labels),
        data={key: value for key, value in vars(prepared).items() if value is not None},
        metrics=_optional(data, "metrics", place),
        routing=None if data.get("routing") is None else typed(data, "routing", list, place),
        flops=_optional(data, "flops", place),
        hashes=hashes,
        tokenizer=tokenizer,
        backbone=backbone,
        compression=compression,
        fetch=lambda file: fetch(file, {**hashes, **tokenizer}.get(file, "")),
        fetch_backbone=fetch_backbone,
    )


def _refuse_huge(value: Any, place: str) -> None:
    """``backbone_args`` go to other people's constructors, some of which would begin to allocate."""
    if isinstance(value, int) and abs(value) > LARGEST and not place.endswith("theta"):
        raise ConfigError(f"{place}={value!r:.40} is not allowed: nothing larger than {LARGEST:,} is meant by a size")
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        _refuse_huge(item, f"{place}.{key}")


def _optional(data: dict[str, Any], key: str, place: str) -> dict[str, Any] | None:
    return None if data.get(key) is None else typed(data, key, dict, place)
