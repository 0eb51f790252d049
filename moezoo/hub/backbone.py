"""Where a timm backbone's pretrained weights come from, fetched by :mod:`moezoo.hub.fetch`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moezoo.errors import WeightsUnavailable
from moezoo.hub.fetch import fetch_file


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
