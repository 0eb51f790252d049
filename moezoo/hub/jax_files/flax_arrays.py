"""How flax writes an array: ``(shape, name of the dtype, bytes)``, in msgpack inside an extension type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moezoo.errors import WeightsCorrupted
from moezoo.hub.jax_files.package import load_msgpack

BFLOAT16 = np.dtype([("bfloat16", "<u2")])
"""Numpy has none; the sixteen bits are kept as they are, under their name."""
KINDS = "biufc"
"""Of arrays that are numbers."""


def decode_array(data: bytes) -> NDArray[Any]:
    """The array in the payload of an extension type 1 or 3.

    Raises:
        WeightsCorrupted: It is none.
    """
    try:
        shape, name, buffer = load_msgpack().unpackb(data, raw=True)
        shape, dtype = tuple(int(size) for size in shape), dtype_of(name)
        if min(shape, default=0) < 0 or len(buffer) != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{len(buffer)} bytes are no {dtype_name(dtype)} array of shape {shape}")
        return np.frombuffer(buffer, dtype=dtype).reshape(shape)
    except (ValueError, TypeError) as error:
        raise WeightsCorrupted(f"an array cannot be read: {error}") from None


def encode_array(array: NDArray[Any]) -> bytes:
    """The payload of an extension type 1."""
    return load_msgpack().packb((array.shape, array.dtype.name, array.tobytes("C")), use_bin_type=True)


def dtype_of(name: bytes) -> np.dtype[Any]:
    """The dtype of this name; raises ``ValueError`` or ``TypeError`` unless it is one of numbers."""
    if name == b"bfloat16":
        return BFLOAT16
    dtype = np.dtype(name.decode())
    if dtype.kind not in KINDS:
        raise ValueError(f"{name.decode()!r} are no numbers")
    return dtype


def dtype_name(dtype: np.dtype[Any]) -> str:
    """``float32``, ``bfloat16``, …"""
    return "bfloat16" if dtype == BFLOAT16 else dtype.name
