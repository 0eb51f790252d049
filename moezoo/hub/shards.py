"""Weights in several files: how they are dealt out, and the index that says which tensor lies where."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import split_torch_state_dict_into_shards
from torch import Tensor

from moezoo.errors import ConfigError, WeightsCorrupted
from moezoo.hub.files import file_digest
from moezoo.hub.header import header_shapes
from moezoo.hub.schema import INDEX_NAME
from moezoo.hub.state import shown


def plan_shards(state: dict[str, Tensor], max_shard_size: int | str) -> tuple[dict[str, list[str]], str | None]:
    """Which tensors go into which file, and the text of the index; no index where one file holds them all.

    Raises:
        ConfigError: ``max_shard_size`` is not a size.
    """
    if isinstance(max_shard_size, int) and max_shard_size < 1:
        raise ConfigError(f"max_shard_size={max_shard_size!r} must be positive")
    try:
        plan = split_torch_state_dict_into_shards(
            state, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
        )
    except (ValueError, TypeError) as error:
        raise ConfigError(f"max_shard_size={max_shard_size!r} must be bytes or a size such as '5GB': {error}") from None
    files = {name: list(tensors) for name, tensors in plan.filename_to_tensors.items()}
    if not plan.is_sharded:
        return files, None
    index = {"metadata": plan.metadata, "weight_map": dict(sorted(plan.tensor_to_filename.items()))}
    return files, json.dumps(index, indent=2) + "\n"


def check_index(path: Path, hashes: Mapping[str, str], place: str) -> None:
    """Check an index against the files that ``config.json`` names, by content too.

    Raises:
        WeightsCorrupted: It is damaged, names a file elsewhere, or names too few or too many.
    """
    if (got := file_digest(path)) != hashes[INDEX_NAME]:
        raise WeightsCorrupted(
            f"{str(path)!r} is not the file its config.json was saved with: expected sha256 {hashes[INDEX_NAME]}, "
            f"got {got}"
        )
    named = set(read_index(path).values())
    if elsewhere := sorted(name for name in named if "/" in name or "\\" in name or name.startswith(".")):
        raise WeightsCorrupted(f"{place}: {INDEX_NAME} names a file elsewhere: {elsewhere[0]!r:.80}")
    known = set(hashes) - {INDEX_NAME}
    for what, names in (("lacks", known - named), ("names besides them", named - known)):
        if names:
            raise WeightsCorrupted(
                f"{place}: config.json lists {len(known)} shards; {INDEX_NAME} {what} {shown(sorted(names))}"
            )


def read_index(path: Path) -> dict[str, str]:
    """Tensor name to file name.

    Raises:
        WeightsCorrupted: It is no index.
    """
    try:
        content: Any = json.loads(path.read_bytes())
        weight_map = content["weight_map"]
        sound = all(isinstance(item, str) for pair in weight_map.items() for item in pair)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsCorrupted(f"{str(path)!r} is no index of shards: {error!r:.200}") from None
    if not weight_map or not sound:
        raise WeightsCorrupted(f"{str(path)!r} is no index of shards: weight_map must map names to file names")
    return weight_map


def check_places(index: Path, shards: Mapping[str, Path], place: str) -> None:
    """Check that each tensor lies in the file which the index says, and nowhere else.

    Args:
        index: The index.
        shards: File name to where the file is.
        place: Begins the error.

    Raises:
        WeightsCorrupted: Naming the first tensors that lie elsewhere.
    """
    said = read_index(index)
    found = {(tensor, name) for name, path in shards.items() for tensor in header_shapes(path)}
    wrong = [f"{tensor} is in {name}" for tensor, name in sorted(found) if said.get(tensor) != name]
    wrong += [f"{tensor} is not in {name}" for tensor, name in said.items() if (tensor, name) not in found]
    if wrong:
        raise WeightsCorrupted(f"{place}: the shards are not as {INDEX_NAME} says: {shown(wrong)}")
