"""The format of ``config.json``: its keys, its version, and reading it without trusting it. No torch here.

Compatibility: this moezoo reads every format up to :data:`FORMAT_VERSION`; a newer one is refused with both
versions named. Within one format nothing is guessed: an unknown key is an error.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moezoo
from moezoo.config import STRICT
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean

FORMAT_VERSION = 1
CONFIG_NAME, WEIGHTS_NAME = "config.json", "model.safetensors"
CONFIG_LIMIT = 1_000_000
"""Largest ``config.json`` read, in bytes."""


@dataclass(frozen=True)
class DataConfig:
    """How images are prepared; the words are timm's. ``None`` means not stated."""

    __pydantic_config__ = STRICT

    input_size: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: str | None = None
    crop_pct: float | None = None


DATA_FIELDS = tuple(field.name for field in dataclasses.fields(DataConfig))
KEYS = (
    "format_version",
    "moezoo_version",
    "name",
    "config",
    "label_names",
    "data",
    "metrics",
    "weights_sha256",
)


def read_config_file(path: Path, place: str) -> dict[str, Any]:
    """The JSON object in ``path``, its size, version and keys checked; ``place`` begins each error.

    Raises:
        ConfigError: It is too large, not JSON, of a newer format, or has unknown keys.
    """
    if path.stat().st_size > CONFIG_LIMIT:
        raise ConfigError(f"{place} has {path.stat().st_size:,} bytes; more than {CONFIG_LIMIT:,} is no configuration")
    try:
        data = json.loads(
            path.read_bytes().decode("utf-8-sig"), object_pairs_hook=_no_twins, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not valid JSON: {error}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{place} must hold a JSON object, got {type(data).__name__}")
    _check_version(data, place)
    for key in data:
        if key not in KEYS:
            raise ConfigError(f"{place}: unknown key {key!r}.{did_you_mean(key, KEYS)} Allowed: {', '.join(KEYS)}.")
    return data


def _check_version(data: dict[str, Any], place: str) -> None:
    version = data.get("format_version")
    if version is None:
        kind = {
            "architecture": " It looks like a timm model.",
            "model_type": " It looks like a transformers model.",
        }
        hint = next((text for key, text in kind.items() if key in data), "")
        raise ConfigError(f"{place} has no format_version, so moezoo.save_pretrained did not write it.{hint}")
    if type(version) is not int or version < 1:
        raise ConfigError(f"{place}: format_version={version!r:.80} must be a whole number from 1 to {FORMAT_VERSION}")
    if version > FORMAT_VERSION:
        raise ConfigError(
            f"{place}: format_version {version}, written by moezoo {data.get('moezoo_version')!s:.40}, is "
            f"newer than this moezoo {moezoo.__version__}, which reads formats up to {FORMAT_VERSION}."
        )


def typed(data: dict[str, Any], key: str, kind: type, place: str) -> Any:
    """``data[key]``, which must be a ``kind`` (``str`` or ``dict``)."""
    if not isinstance(value := data.get(key), kind):
        word = "an object" if kind is dict else "a string"
        raise ConfigError(f"{place}: {key} must be {word}, got {value!r:.80}")
    return value


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
