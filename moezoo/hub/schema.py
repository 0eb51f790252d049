"""The format of ``config.json``: its keys, its version, and reading it without trusting it. No torch here.

Compatibility: this moezoo reads every format up to :data:`FORMAT_VERSION`; a newer one is refused with both
versions named. Within one format nothing is guessed: an unknown key is an error.

Format 2 adds shards (``weights_sha256`` may be an object, file name to hash), ``routing``, ``flops`` and
``backbone`` (weights that are somebody else's and stay where they are).
Format 3 adds ``tokenizer_sha256``, of the ``tokenizer.json`` of a model that reads text.
Format 4 adds ``compression``: how the tensors differ from those that the configuration builds.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moezoo
from moezoo.config import STRICT
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean

FORMAT_VERSION = 4
CONFIG_NAME, WEIGHTS_NAME, CARD_NAME = "config.json", "model.safetensors", "README.md"
INDEX_NAME, PROCESSOR_NAME = f"{WEIGHTS_NAME}.index.json", "preprocessor_config.json"
TOKENIZER_NAME = "tokenizer.json"
SHARD = re.compile(r"model-\d{5}-of-\d{5}\.safetensors")
MODEL_TYPE = "moezoo"
"""By this word of a ``config.json`` transformers' Auto classes find :mod:`moezoo.transformers`."""
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
    crop_mode: str | None = None


@dataclass(frozen=True)
class PublishedBackbone:
    """Where the weights lie that a file without its backbone is completed by."""

    __pydantic_config__ = STRICT

    id: str
    """``user/repo`` on the Hub, or timm's own name where timm has them elsewhere."""
    revision: str | None
    sha256: str | None
    """Of the published file; of several, of their names and hashes. ``None`` where timm's own downloader gets them."""
    tensors_sha256: str
    """Of the tensors as they stand in the model, see :func:`moezoo.hub.state.digest`."""


DATA_FIELDS = tuple(field.name for field in dataclasses.fields(DataConfig))
KEYS = (
    "format_version",
    "moezoo_version",
    "model_type",
    "name",
    "config",
    "label_names",
    "data",
    "metrics",
    "routing",
    "flops",
    "backbone",
    "compression",
    "weights_sha256",
    "tokenizer_sha256",
)
_SINCE = {"model_type": 2, "routing": 2, "flops": 2, "backbone": 2, "tokenizer_sha256": 3, "compression": 4}
"""The format a key came with, where it was not the first."""


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
    allowed = [key for key in KEYS if _SINCE.get(key, 1) <= data["format_version"]]
    for key in data:
        if key not in allowed:
            hint = f"{did_you_mean(key, allowed)} Allowed: {', '.join(allowed)}."
            raise ConfigError(f"{place}: unknown key {key!r}.{hint}")
    return data


def weights_hashes(data: dict[str, Any], place: str) -> dict[str, str]:
    """The files that hold the weights, each with its sha256; the index among them where there are shards.

    Raises:
        ConfigError: A name is not one that moezoo writes, or a hash is none.
    """
    said = data.get("weights_sha256")
    if isinstance(said, str):
        said = {WEIGHTS_NAME: said}
    elif not isinstance(said, dict) or data["format_version"] == 1:
        raise ConfigError(f"{place}: weights_sha256 must be a string or an object, got {said!r:.80}")
    elif INDEX_NAME not in said or len(said) < 2:
        raise ConfigError(f"{place}: weights_sha256 must name {INDEX_NAME} and shards, got {list(said)!r:.80}")
    elif wrong := [name for name in said if name != INDEX_NAME and not SHARD.fullmatch(name)]:
        raise ConfigError(f"{place}: weights_sha256 names {wrong[0]!r:.80}, which is no shard that moezoo writes")
    for name, sha256 in said.items():
        if not _is_hash(sha256):
            raise ConfigError(f"{place}: weights_sha256={sha256!r:.80} of {name} must be 64 hexadecimal digits")
    return said


def tokenizer_hash(data: dict[str, Any], place: str) -> dict[str, str]:
    """The file of the tokenizer with its sha256, as :func:`weights_hashes`; empty for a model without one.

    Raises:
        ConfigError: The hash is none.
    """
    if (said := data.get("tokenizer_sha256")) is None:
        return {}
    if not _is_hash(said):
        raise ConfigError(f"{place}: tokenizer_sha256={said!r:.80} must be 64 hexadecimal digits or null")
    return {TOKENIZER_NAME: said}


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value) is not None


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
    """``data[key]``, which must be a ``kind`` (``str``, ``int``, ``dict`` or ``list``)."""
    if not isinstance(value := data.get(key), kind):
        word = {dict: "an object", list: "a list", int: "an integer"}.get(kind, "a string")
        raise ConfigError(f"{place}: {key} must be {word}, got {value!r:.80}")
    return value


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice in one object")
    return result


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")
