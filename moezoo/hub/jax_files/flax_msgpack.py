"""flax's msgpack files: trees of mappings whose leaves are arrays, and what google-research/vmoe adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from moezoo.errors import WeightsCorrupted
from moezoo.hub.jax_files.flax_arrays import decode_array, dtype_of, encode_array
from moezoo.hub.jax_files.package import load_msgpack

ARRAY, COMPLEX, SCALAR = 1, 2, 3
"""Extension types of flax.serialization."""
SHAPED, SLICE, SLICE_ND, INDEX = 4, 5, 6, 8
"""Extension types of vmoe.checkpoints.serialization."""
CHUNKED = "__msgpack_chunked_array__"
"""Marks a mapping that is an array in pieces, since msgpack ends at 2 GiB a leaf."""
MAX_CHUNK = 2**30

Box = tuple[slice, ...]


class Leaf(NamedTuple):
    """Where an array of a partitioned checkpoint is."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    boxes: tuple[Box, ...]
    """The parts of the array that were stored apart."""
    shards: tuple[int, ...]
    """The data file of each."""


def unpack(data: bytes, where: str) -> Any:
    """The tree in a file's bytes; arrays in pieces are put together.

    Raises:
        WeightsCorrupted: The bytes are no such tree; the message begins with ``where``.
    """
    try:
        return _whole(load_msgpack().unpackb(data, ext_hook=_decode, raw=False, strict_map_key=False))
    except (ValueError, TypeError, KeyError, RecursionError, WeightsCorrupted) as error:
        raise WeightsCorrupted(f"{where} is no sound flax msgpack file: {error!s:.300}") from None


def pack(tree: Any, max_chunk: int = MAX_CHUNK) -> bytes:
    """The bytes that ``flax.serialization.msgpack_restore`` reads.

    Args:
        tree: Nested mappings with arrays as leaves.
        max_chunk: Larger arrays, in bytes, are written in pieces.
    """
    return load_msgpack().packb(_divided(tree, max_chunk), default=_encode, strict_types=True)


def _decode(code: int, data: bytes) -> Any:
    unpackb = load_msgpack().unpackb
    if code == ARRAY:
        return decode_array(data)
    if code == SCALAR:
        return decode_array(data)[()]
    if code == COMPLEX:
        return complex(*unpackb(data))
    if code == SLICE_ND:
        return _box(data)
    if code == INDEX:
        shaped, boxes, shards = unpackb(data, raw=True)
        shape, dtype, *_ = unpackb(shaped, raw=True)
        sizes, places = tuple(map(int, shape)), tuple(map(int, shards))
        return Leaf(sizes, dtype_of(dtype), tuple(map(_box, boxes)), places)
    raise ValueError(f"extension type {code} is unknown")


def _box(data: bytes) -> Box:
    unpackb = load_msgpack().unpackb
    parts = [unpackb(each, raw=True) for each in unpackb(data, raw=True)]
    if any(step not in (None, 1) for _, _, step in parts):
        raise ValueError("a part of an array has gaps")
    return tuple(slice(int(start), int(stop)) for start, stop, _ in parts)


def _encode(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return load_msgpack().ExtType(ARRAY, encode_array(value))
    raise TypeError(f"a {type(value).__name__} cannot be written")


def _divided(tree: Any, max_chunk: int) -> Any:
    if isinstance(tree, Mapping):
        return {str(key): _divided(value, max_chunk) for key, value in tree.items()}
    if not isinstance(tree, np.ndarray) or tree.nbytes <= max_chunk:
        return tree
    flat, size = tree.reshape(-1), max(1, max_chunk // tree.itemsize)
    pieces = {str(i): flat[start : start + size] for i, start in enumerate(range(0, flat.size, size))}
    return {CHUNKED: True, "shape": {str(i): size for i, size in enumerate(tree.shape)}, "chunks": pieces}


def _whole(tree: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    if CHUNKED not in tree:
        return {str(key): _whole(value) for key, value in tree.items()}
    shape, pieces = ([part[str(i)] for i in range(len(part))] for part in (tree["shape"], tree["chunks"]))
    flat: NDArray[Any] = np.concatenate(pieces)
    return flat.reshape(shape)
