"""Stored models by name: ``local-dir:PATH`` and ``hf-hub:user/repo[@revision]``. No torch here."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moezoo.errors import ConfigError, WeightsUnavailable
from moezoo.hub.files import unchanging
from moezoo.hub.schema import CONFIG_LIMIT, CONFIG_NAME
from moezoo.hub.stored_config import parse
from moezoo.hub.stored_model import StoredModel
from moezoo.hub.swap import staged_name
from moezoo.names import canonical_stored_name

INDEX_LIMIT = 100 * CONFIG_LIMIT
"""Largest file that is fetched beside the weights, in bytes; an index of shards may be large."""


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
        return parse(name, path, lambda file, sha256: _local(name, folder, file, sha256), where)
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

    return parse(name, path, fetch, where)


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
