"""Arrays of the reference into tensors of ours and back, bit by bit; and the report of those that do not fit."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moezoo.errors import WeightsMismatch
from moezoo.models.moe_vit.jax.names import Entry, Part
from moezoo.names import did_you_mean


def check(arrays: Mapping[str, NDArray[Any]], wanted: Sequence[Entry]) -> None:
    """Raise :class:`WeightsMismatch` with every array that is missing, too much, or other than it must be."""
    parts = {part.name: part for entry in wanted for part in entry.parts}
    missing = [f"missing: {name} {part.shape}" for name, part in parts.items() if name not in arrays]
    wrong = [why for name, part in parts.items() if name in arrays and (why := _wrong(arrays[name], part))]
    absent = [name for name in parts if name not in arrays]
    extra = [
        f"not in this model: {name} {array.shape}{did_you_mean(name, absent)}"
        for name, array in arrays.items()
        if name not in parts
    ]
    if lines := [*missing, *extra, *wrong]:
        raise WeightsMismatch(
            f"the arrays do not fit the configuration, {len(lines)} of them:\n  " + "\n  ".join(lines)
        )


def _wrong(array: NDArray[Any], part: Part) -> str | None:
    name = part.name
    if array.shape != part.shape:
        turned = sorted(array.shape) == sorted(part.shape)
        how = "transposed" if turned else "of another shape"
        return f"{how}: {name} has shape {array.shape}, must have {part.shape}"
    if array.dtype.newbyteorder("=") != np.float32:
        names = array.dtype.names  # bfloat16 as numpy keeps it: one field of this name
        return f"of another type: {name} is {names[0] if names else array.dtype.name}, must be float32"
    if bad := array.size - int(np.isfinite(array).sum()):
        return f"not finite: {name} has NaN or infinity in {bad} of {array.size} values"
    return None


def to_tensor(entry: Entry, arrays: Mapping[str, NDArray[Any]]) -> Tensor:
    """The parameter, in memory of its own."""
    whole, start = np.empty(math.prod(entry.shape), dtype=np.float32), 0
    for part in entry.parts:
        stop = start + math.prod(part.shape)
        whole[start:stop].reshape(part.turned)[...] = arrays[part.name].transpose(part.axes)
        start = stop
    return torch.from_numpy(whole).reshape(entry.shape)


def to_arrays(entry: Entry, tensor: Tensor) -> dict[str, NDArray[Any]]:
    """The reference's arrays in a parameter, in memory of their own."""
    flat, start, found = tensor.detach().cpu().numpy().reshape(-1), 0, {}
    for part in entry.parts:
        size = math.prod(part.shape)
        turned = flat[start : start + size].reshape(part.turned)
        found[part.name] = np.array(turned.transpose(np.argsort(part.axes)), order="C")
        start += size
    return found
