"""Stored models by name: ``local-dir:PATH`` and ``hf-hub:user/repo[@revision]``. No torch here."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.altered.said import Compression
from moezoo.config import decode
from moezoo.errors import ConfigError, HubError, MoeZooError, NoSuchFile, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.files import file_digest, unchanging
from moezoo.hub.schema import (
    CONFIG_LIMIT,
    CONFIG_NAME,
    INDEX_NAME,
    WEIGHTS_NAME,
    DataConfig,
    PublishedBackbone,
    read_config_file,
    tokenizer_hash,
    typed,
    weights_hashes,
)
from moezoo.hub.swap import staged_name
from moezoo.names import canonical_stored_name
from moezoo.registry import model_config

logger = logging.getLogger(__name__)

INDEX_LIMIT = 100 * CONFIG_LIMIT
"""Largest file that is fetched beside the weights, in bytes; an index of shards may be large."""
LARGEST = 1_000_000
"""Largest whole number in the arguments of a stored model's backbone; a rotation's theta may be larger."""


@dataclass(frozen=True)
class StoredModel:
    """A checked ``config.json``."""

    source: str
    """``hf-hub:…`` or ``local-dir:…``, as it was asked for."""
    name: str
    config: Any
    """The family's dataclass."""
    label_names: tuple[str, ...] | None
    data: dict[str, Any]
    """The stated fields of :class:`DataConfig`."""
    metrics: dict[str, Any] | None
    routing: list[dict[str, Any]] | None
    """Load of the experts, one entry per MoE layer."""
    flops: dict[str, Any] | None
    hashes: dict[str, str]
    """sha256 of every file of the weights; the index among them where there are shards."""
    tokenizer: dict[str, str]
    """The file of the tokenizer with its sha256; empty for a model without one."""
    backbone: PublishedBackbone | None
    """Where the rest of the weights is, if the files hold the MoE and the head alone."""
    compression: Compression | None
    """How the tensors differ from those that the configuration builds, if they do."""
    fetch: Callable[[str], Path] = dataclasses.field(repr=False)
    """From a file's name to where it lies on this machine."""
    fetch_backbone: Callable[[], Any] = dataclasses.field(repr=False)
    """Its weights, a :class:`moezoo.hub.backbone.Published`."""

    @property
    def weights_sha256(self) -> str:
        """Of the file of the weights, or of the index where there are shards."""
        return self.hashes.get(WEIGHTS_NAME) or self.hashes[INDEX_NAME]

    def weights_path(self) -> Path:
        """Where the file of the weights, or the index of the shards, lies on this machine.

        Raises:
            WeightsUnavailable: It does not exist or cannot be reached.
        """
        return self.fetch(WEIGHTS_NAME if WEIGHTS_NAME in self.hashes else INDEX_NAME)

    def weights_files(self) -> dict[Path, str]:
        """Every safetensors file of the weights with its sha256; downloads them if need be.

        Raises:
            WeightsUnavailable: One does not exist or cannot be reached.
            WeightsCorrupted: The index is not that of these files.
        """
        names = sorted(name for name in self.hashes if name != INDEX_NAME)
        if INDEX_NAME in self.hashes:
            from moezoo.hub import shards

            index = self.fetch(INDEX_NAME)
            shards.check_index(index, self.hashes, self.source)
            paths = {name: self.fetch(name) for name in names}
            shards.check_places(index, paths, self.source)
        else:
            paths = {name: self.fetch(name) for name in names}
        return {path: self.hashes[name] for name, path in paths.items()}

    def tokenizer_text(self) -> str | None:
        """The tokenizer, as its ``from_json`` takes it; ``None`` where there is none, or its file is gone (logged).

        Raises:
            WeightsCorrupted: The file is not the one that was saved.
            HubError: It cannot be reached.
        """
        for name, sha256 in self.tokenizer.items():
            try:
                path = self.fetch(name)
            except WeightsUnavailable as error:
                if isinstance(error, HubError) and not isinstance(error, NoSuchFile):
                    raise
                logger.warning("%s: the model was saved with a tokenizer, but %s is missing", self.source, name)
                return None
            if (got := file_digest(path)) != sha256:
                raise WeightsCorrupted(
                    f"{str(path)!r} is not the file its config.json was saved with: expected sha256 {sha256}, got {got}"
                )
            return path.read_bytes().decode("utf-8", errors="replace")
        return None


def read_stored(
    name: str, *, cache_dir: str | os.PathLike[str] | None = None, token: bool | str | None = None
) -> StoredModel:
    """Read and check a stored model's configuration; its weights are fetched later.

    Raises:
        WeightsUnavailable: The folder, repository or file does not exist or cannot be reached.
        ConfigError: ``config.json`` is not what moezoo writes.
        UnknownModelError: It names a model that is not registered here.
    """
    name = canonical_stored_name(name)
    where: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
    if name.startswith("local-dir:"):
        folder = _folder(name)
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise WeightsUnavailable(f"{name!r}: there is no file {str(path)!r}; moezoo.save_pretrained writes one")
        return _parse(name, path, lambda file, sha256: _local(name, folder, file, sha256), where)
    if not name.startswith("hf-hub:"):
        raise ConfigError(f"a stored model is 'hf-hub:user/repo[@revision]' or 'local-dir:PATH', got {name!r}")
    repo_id, _, revision = name.removeprefix("hf-hub:").partition("@")
    check_repo_id(repo_id, name)
    from moezoo.hub.fetch import commit_of, fetch_file

    path = fetch_file(repo_id, CONFIG_NAME, revision=revision or None, refresh=True, max_bytes=CONFIG_LIMIT, **where)
    # The weights come from the very commit the configuration came from, even if the branch moves meanwhile.
    pinned = commit_of(path) or revision or None

    def fetch(file: str, sha256: str) -> Path:
        limit = None if file.endswith(".safetensors") else INDEX_LIMIT
        return fetch_file(repo_id, file, revision=pinned, max_bytes=limit, **where)

    return _parse(name, path, fetch, where)


@contextlib.contextmanager
def unchanged(name: str) -> Iterator[None]:
    """Inside, no save replaces the folder of a ``local-dir:`` model: its configuration and weights are of one save."""
    with contextlib.ExitStack() as stack:
        if name.startswith("local-dir:"):
            stack.enter_context(unchanging(_folder(name)))
        yield


def _folder(name: str) -> Path:
    return Path(name.removeprefix("local-dir:")).expanduser()


def check_repo_id(repo_id: str, given: str) -> None:
    """Raise :class:`ConfigError` unless ``repo_id`` reads ``user/repo``."""
    if not re.fullmatch(r"[\w.\-]+/[\w.\-]+", repo_id):
        raise ConfigError(
            f"{given!r}: a hub model is 'hf-hub:user/repo' or 'hf-hub:user/repo@revision', with one slash"
        )


def _local(source: str, folder: Path, name: str, sha256: str) -> Path:
    for candidate in (folder / staged_name(name, sha256), folder / name):
        if candidate.is_file():
            return candidate
    raise WeightsUnavailable(f"{source!r}: there is no file {str(folder / name)!r}")


def _parse(source: str, path: Path, fetch: Callable[[str, str], Path], where: dict[str, Any]) -> StoredModel:
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
