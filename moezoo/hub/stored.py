"""Stored models by name: ``local-dir:PATH`` and ``hf-hub:user/repo[@revision]``. No torch here."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.config import decode
from moezoo.errors import ConfigError, MoeZooError, WeightsUnavailable
from moezoo.hub.schema import CONFIG_LIMIT, CONFIG_NAME, WEIGHTS_NAME, DataConfig, read_config_file, typed
from moezoo.names import canonical_stored_name
from moezoo.registry import model_config


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
    weights_sha256: str
    fetch_weights: Callable[[], Path] = dataclasses.field(repr=False)

    def weights_path(self) -> Path:
        """Where the weights lie on this machine; downloads them if need be.

        Raises:
            WeightsUnavailable: They do not exist or cannot be reached.
        """
        return self.fetch_weights()


def staged_name(sha256: str) -> str:
    """The name weights bear between their writing and the end of a save."""
    return f"model.{sha256[:16]}.safetensors"


def read_stored(
    name: str, *, cache_dir: str | os.PathLike[str] | None = None, token: bool | str | None = None
) -> StoredModel:
    """Read and check a stored model's configuration; its weights are fetched later, by ``weights_path()``.

    Raises:
        WeightsUnavailable: The folder, repository or file does not exist or cannot be reached.
        ConfigError: ``config.json`` is not what moezoo writes.
        UnknownModelError: It names a model that is not registered here.
    """
    name = canonical_stored_name(name)
    if name.startswith("local-dir:"):
        folder = Path(name.removeprefix("local-dir:")).expanduser()
        path = folder / CONFIG_NAME
        if not path.is_file():
            raise WeightsUnavailable(f"{name!r}: there is no file {str(path)!r}; moezoo.save_pretrained writes one")

        def local_weights(sha256: str) -> Path:
            for candidate in (folder / staged_name(sha256), folder / WEIGHTS_NAME):
                if candidate.is_file():
                    return candidate
            raise WeightsUnavailable(f"{name!r}: there is no file {str(folder / WEIGHTS_NAME)!r}")

        return _parse(name, path, local_weights)
    if not name.startswith("hf-hub:"):
        raise ConfigError(f"a stored model is 'hf-hub:user/repo[@revision]' or 'local-dir:PATH', got {name!r}")
    repo_id, _, revision = name.removeprefix("hf-hub:").partition("@")
    if not re.fullmatch(r"[\w.\-]+/[\w.\-]+", repo_id):
        raise ConfigError(f"{name!r}: a hub model is 'hf-hub:user/repo' or 'hf-hub:user/repo@revision', with one slash")
    from moezoo.hub.fetch import commit_of, fetch_file

    path = fetch_file(
        repo_id,
        CONFIG_NAME,
        revision=revision or None,
        cache_dir=cache_dir,
        token=token,
        refresh=True,
        max_bytes=CONFIG_LIMIT,
    )
    # The weights come from the very commit the configuration came from, even if the branch moves meanwhile.
    pinned = commit_of(path) or revision or None
    return _parse(
        name,
        path,
        lambda _: fetch_file(repo_id, WEIGHTS_NAME, revision=pinned, cache_dir=cache_dir, token=token),
    )


def _parse(source: str, path: Path, weights: Callable[[str], Path]) -> StoredModel:
    place = f"{source}: {CONFIG_NAME}"
    data = read_config_file(path, place)
    name = typed(data, "name", str, place)
    sha256 = typed(data, "weights_sha256", str, place)
    if not re.fullmatch(r"[0-9a-f]{64}", sha256):
        raise ConfigError(f"{place}: weights_sha256={sha256!r:.80} must be 64 hexadecimal digits")
    values = typed(data, "config", dict, place)
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
    prepared = decode(DataConfig, typed(data, "data", dict, place) if data.get("data") is not None else {}, where=place)
    return StoredModel(
        source=source,
        name=name,
        config=config,
        label_names=None if labels is None else tuple(labels),
        data={key: value for key, value in vars(prepared).items() if value is not None},
        metrics=None if data.get("metrics") is None else typed(data, "metrics", dict, place),
        weights_sha256=sha256,
        fetch_weights=lambda: weights(sha256),
    )
