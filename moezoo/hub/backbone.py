"""Where a backbone's published weights come from, fetched by :mod:`moezoo.hub.fetch`."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.backbones.create import pretrained_cfg
from moezoo.backbones.hf.names import is_hf, repo_id
from moezoo.errors import WeightsUnavailable
from moezoo.hub.fetch import commit_of, fetch_file
from moezoo.hub.files import file_digest
from moezoo.hub.published import published_folder
from moezoo.hub.schema import INDEX_NAME, WEIGHTS_NAME
from moezoo.hub.shards import read_index


@dataclass(frozen=True)
class Published:
    """The published weights of a backbone, on this machine."""

    id: str
    """``user/repo`` on the Hub; timm's own name where they lie elsewhere."""
    tag: str
    """timm's name for these weights, or what was asked for of the Hub's revisions."""
    revision: str | None
    """The commit, where it is known."""
    files: Path | bool
    """As :func:`moezoo.backbones.create.load_backbone_weights` takes them."""

    @property
    def sha256(self) -> str | None:
        """Of the file; of several, of their names and hashes."""
        if isinstance(self.files, bool):
            return None
        if self.files.is_file():
            return file_digest(self.files)
        index = self.files / INDEX_NAME
        names = sorted(set(read_index(index).values())) if index.is_file() else [WEIGHTS_NAME]
        lines = "".join(f"{name} {file_digest(self.files / name)}\n" for name in names)
        return hashlib.sha256(lines.encode()).hexdigest()


def published_weights(
    config: Any,
    *,
    id: str | None = None,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: bool | str | None = None,
) -> Published:
    """The published weights of the backbone that ``config`` names.

    Args:
        config: A family's configuration.
        id: Take them from this repository, whatever timm says today.
        revision: Of that repository.
        cache_dir, token: As in :func:`~moezoo.hub.fetch.fetch_file`.

    Raises:
        WeightsUnavailable: There are none, or they cannot be reached.
        WeightsCorrupted: They arrived damaged, twice.
    """
    where: dict[str, Any] = {"cache_dir": cache_dir, "token": token}
    if is_hf(config.model_name):
        pinned = dataclasses.replace(config, backbone_tag=revision or config.backbone_tag)
        folder = published_folder(pinned, **where)
        commit = commit_of(folder / "any")
        return Published(repo_id(config.model_name), config.backbone_tag or "", commit, folder)
    cfg = pretrained_cfg(config)
    source = {key: value for key, value in vars(cfg).items() if value is not None}
    if id is not None and "/" in id:
        source |= {"hf_hub_id": f"{id}@{revision}" if revision else id}
    path = backbone_file(source, **where)
    own = f"{cfg.architecture}.{cfg.tag}" if cfg.tag else str(cfg.architecture)
    if path is None:  # timm's own downloader gets them
        return Published(own, cfg.tag or "", None, True)
    return Published(str(source["hf_hub_id"]).partition("@")[0], cfg.tag or "", commit_of(path), path)


def backbone_file(
    pretrained_cfg: Any, *, cache_dir: str | os.PathLike[str] | None = None, token: bool | str | None = None
) -> Path | None:
    """The local path of the safetensors file behind a timm ``pretrained_cfg``; a file already in the cache is
    not asked for again.

    Args:
        pretrained_cfg: A ``timm.models.PretrainedCfg`` or the dict form of one. Its ``hf_hub_id`` may end in
            ``@revision``.

    Returns:
        The path, or ``None`` when the weights have no safetensors file on the Hub and timm's own loader has
        to get them.

    Raises:
        WeightsUnavailable: There are no pretrained weights at all, or they cannot be reached.
        WeightsCorrupted: They arrived damaged, twice.
    """
    get = pretrained_cfg.get if isinstance(pretrained_cfg, Mapping) else lambda key: getattr(pretrained_cfg, key, None)
    if get("state_dict") or get("file"):
        return None
    if hub_id := get("hf_hub_id"):
        filename = get("hf_hub_filename") or "model.safetensors"
        if not filename.endswith(".safetensors"):
            return None
        repo_id, _, revision = str(hub_id).partition("@")
        return fetch_file(repo_id, filename, revision=revision or None, cache_dir=cache_dir, token=token)
    if get("url"):
        return None
    arch = ".".join(filter(None, (get("architecture"), get("tag")))) or "this architecture"
    raise WeightsUnavailable(f"timm has no pretrained weights for {arch!r}. Use pretrained=False for fresh ones.")
