"""What the Hub holds of a transformers model: its configuration, how images are prepared, its weights."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any, TypedDict

from moezoo.backbones.hf.config import completed, is_complete
from moezoo.backbones.hf.names import is_hf, repo_id
from moezoo.errors import NoSuchFile, WeightsCorrupted, WeightsUnavailable
from moezoo.hub.fetch import commit_of, fetch_file
from moezoo.hub.schema import CONFIG_LIMIT, CONFIG_NAME, INDEX_NAME, PROCESSOR_NAME, WEIGHTS_NAME

log = logging.getLogger(__name__)


class _Where(TypedDict):
    cache_dir: str | os.PathLike[str] | None
    token: bool | str | None


def complete_config(
    config: Any, *, cache_dir: str | os.PathLike[str] | None = None, token: bool | str | None = None
) -> Any:
    """A family's configuration, with what the Hub says of its ``hf:`` backbone; any other as it is.

    Raises:
        WeightsUnavailable: The repository does not exist or cannot be reached.
        WeightsCorrupted: Its ``config.json`` is no JSON object.
    """
    if not is_hf(getattr(config, "model_name", "")) or is_complete(config):
        return config
    repo, where = repo_id(config.model_name), _Where(cache_dir=cache_dir, token=token)
    path = fetch_file(repo, CONFIG_NAME, revision=config.backbone_tag, max_bytes=CONFIG_LIMIT, **where)
    # The other files come from the very commit the configuration came from, even if the branch moves meanwhile.
    pinned = commit_of(path) or config.backbone_tag
    try:
        processor = _read(fetch_file(repo, PROCESSOR_NAME, revision=pinned, max_bytes=CONFIG_LIMIT, **where))
    except NoSuchFile:
        processor = {}
    except WeightsUnavailable as error:
        log.warning("%s: how images are prepared is not known, ImageNet's mean is assumed: %s", repo, error)
        processor = {}
    return completed(config, _read(path), processor)


def published_folder(
    config: Any, *, cache_dir: str | os.PathLike[str] | None = None, token: bool | str | None = None
) -> Path:
    """The local folder with the safetensors weights of an ``hf:`` backbone, downloaded if need be.

    Raises:
        WeightsUnavailable: There are none, or they cannot be reached.
        WeightsCorrupted: They arrived damaged, twice, or their index names no files.
    """
    repo, where = repo_id(config.model_name), _Where(cache_dir=cache_dir, token=token)
    try:
        return fetch_file(repo, WEIGHTS_NAME, revision=config.backbone_tag, **where).parent
    except NoSuchFile:
        index = fetch_file(repo, INDEX_NAME, revision=config.backbone_tag, max_bytes=100 * CONFIG_LIMIT, **where)
    shards = set((_read(index).get("weight_map") or {}).values())
    if not shards or not all(isinstance(name, str) and name.endswith(".safetensors") for name in shards):
        raise WeightsCorrupted(f"{INDEX_NAME!r} of {repo!r} names no safetensors files")
    for name in sorted(shards):
        if "/" in name or "\\" in name:
            raise WeightsCorrupted(f"{INDEX_NAME!r} of {repo!r} names a file elsewhere: {name!r:.80}")
        fetch_file(repo, name, revision=commit_of(index) or config.backbone_tag, **where)
    return index.parent


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise WeightsCorrupted(f"{str(path)!r} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise WeightsCorrupted(f"{str(path)!r} must hold a JSON object, got {type(content).__name__}")
    return content
