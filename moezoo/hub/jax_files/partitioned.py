"""google-research/vmoe's partitioned checkpoints: ``PREFIX.index``, and ``PREFIX.data-00000-of-00008`` and so on.

The index is the tree, with the shape of each array and where its parts are. The data files know arrays by their place
in the tree only, so each part is compared with what the index promises. Files from before the format had a version
counted the places in the order of the program's own classes; of parameters, which are mappings alone, it is the same.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moezoo.errors import WeightsCorrupted, WeightsUnavailable
from moezoo.hub.jax_files.flax_arrays import dtype_name
from moezoo.hub.jax_files.flax_msgpack import Box, Leaf, unpack
from moezoo.hub.jax_files.tree import flat

VERSION = "20220622"
MARK = "__msgpack_array_chunk_a87ca2__"
"""Key of the mapping that a data file is."""
PART = re.compile(r"(.*)\.(index|data-\d+-of-\d+)")


def index_of(path: Path) -> Path | None:
    """The index of a partitioned checkpoint that ``path`` names: its prefix, its index, or one of its data files."""
    match = PART.fullmatch(path.name)
    index = path.with_name(f"{match[1] if match else path.name}.index")
    return index if index.is_file() or match else None


def read_partitioned(index: Path, wanted: Callable[[list[str]], set[str]]) -> tuple[dict[str, Any], list[str]]:
    """The arrays of a partitioned checkpoint, by ``/``-joined names, and all names.

    Args:
        index: The ``.index`` file.
        wanted: Is told all names and says which arrays to read.

    Raises:
        WeightsUnavailable: A file is missing.
        WeightsCorrupted: A file is damaged, of another version, or not of this checkpoint.
    """
    if not index.is_file():
        raise WeightsUnavailable(f"there is no file {str(index)!r}, the index of this checkpoint")
    content = unpack(index.read_bytes(), repr(str(index)))
    if not isinstance(content, dict) or "index" not in content or not isinstance(content.get("shard_count"), int):
        raise WeightsCorrupted(f"{str(index)!r} is not the index of a partitioned checkpoint")
    version = content.get("version")
    if version not in (VERSION, None):
        raise WeightsCorrupted(f"{str(index)!r} is of version {version!r}; what is read here is {VERSION!r}")
    leaves = list(flat(content["index"]))
    if wrong := [name for name, leaf in leaves if not isinstance(leaf, Leaf)]:
        raise WeightsCorrupted(f"{str(index)!r} does not say where {wrong[0]!r} is")
    names = [name for name, _ in leaves]
    keep = wanted(names)
    if version is None and len(keep) < len(names):
        raise WeightsCorrupted(
            f"{str(index)!r} is from before version {VERSION!r}, and holds more than parameters: it does not say in "
            "which order its arrays are. The program that wrote it can restore it, and save the parameters alone."
        )
    places = {i: (name, leaf) for i, (name, leaf) in enumerate(leaves) if name in keep}
    shards = sorted({shard for _, leaf in places.values() for shard in leaf.shards})
    files = {shard: index.with_suffix(f".data-{shard:05d}-of-{content['shard_count']:05d}") for shard in shards}
    if missing := [path.name for path in files.values() if not path.is_file()]:
        raise WeightsUnavailable(f"{str(index)!r}: {', '.join(missing)} is missing beside it")
    arrays = _empty(places, sum(path.stat().st_size for path in files.values()), str(index))
    for shard, path in files.items():
        _fill(arrays, places, shard, path)
    return {name: arrays[i] for i, (name, _) in places.items()}, names


def _empty(places: Mapping[int, tuple[str, Leaf]], stored: int, where: str) -> dict[int, NDArray[Any]]:
    """Arrays to fill, if their parts fill them, and are in the files at all."""
    for name, leaf in places.values():
        parts = sum(math.prod(part.stop - part.start for part in box) for box in leaf.boxes)
        inside = all(
            len(box) == len(leaf.shape)
            and all(0 <= part.start < part.stop <= size for part, size in zip(box, leaf.shape, strict=True))
            for box in leaf.boxes
        )
        twice = inside and any(_overlap(one, other) for one, other in itertools.combinations(leaf.boxes, 2))
        if parts != math.prod(leaf.shape) or not inside or twice or len(leaf.boxes) != len(leaf.shards):
            raise WeightsCorrupted(f"{where!r}: the parts of {name!r} do not make up its shape {leaf.shape}")
    if sum(math.prod(leaf.shape) * leaf.dtype.itemsize for _, leaf in places.values()) > stored:
        raise WeightsCorrupted(f"{where!r}: its data files are smaller than the arrays that are in them")
    return {i: np.empty(leaf.shape, leaf.dtype) for i, (_, leaf) in places.items()}


def _fill(arrays: dict[int, NDArray[Any]], places: Mapping[int, tuple[str, Leaf]], shard: int, path: Path) -> None:
    content = unpack(path.read_bytes(), repr(str(path)))
    if not isinstance(content, dict) or MARK not in content:
        raise WeightsCorrupted(f"{str(path)!r} is not a data file of a partitioned checkpoint")
    for i, (name, leaf) in places.items():
        promised = {_key(box) for box, at in zip(leaf.boxes, leaf.shards, strict=True) if at == shard}
        found = content.get(str(i), [])
        try:
            if {_key(box) for _, box in found} != promised:
                raise ValueError("its parts are not those that the index promises")
            for pieces, box in found:
                arrays[i][box] = _joined(pieces, leaf.dtype).reshape([part.stop - part.start for part in box])
        except (ValueError, TypeError, AttributeError) as error:
            raise WeightsCorrupted(f"{str(path)!r} does not fit its index: {name!r}: {error!s:.200}") from None


def _joined(pieces: list[NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    whole = np.concatenate(pieces)
    if whole.dtype != dtype:
        raise ValueError(f"{dtype_name(whole.dtype)} in place of {dtype_name(dtype)}")
    return whole


def _overlap(one: Box, other: Box) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))


def _key(box: Box) -> tuple[tuple[int, int], ...]:
    return tuple((part.start, part.stop) for part in box)
