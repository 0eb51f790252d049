"""``read_jax``: the parameters in a JAX program's checkpoint."""

from __future__ import annotations

import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moezoo.errors import WeightsCorrupted, WeightsUnavailable
from moezoo.hub.jax_files.flax_arrays import KINDS
from moezoo.hub.jax_files.flax_msgpack import unpack
from moezoo.hub.jax_files.partitioned import index_of, read_partitioned
from moezoo.hub.jax_files.tree import find_root, flat

ORBAX = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt")
"""Files by which a folder of orbax is known."""


@dataclass(frozen=True)
class JaxCheckpoint:
    """What was read."""

    params: dict[str, NDArray[Any]]
    """Arrays by ``/``-joined names, without what stood before all of them."""
    left_out: tuple[str, ...]
    """Names of everything else in the file: the optimiser's state, the step, keys of random numbers."""


def read_jax(path: str | os.PathLike[str], *, key: str | None = None) -> JaxCheckpoint:
    """Read the parameters in a checkpoint of flax; of a training state they are found by the usual names.

    Args:
        path: A flax msgpack file, an ``.npz`` of ``/``-joined names, or a partitioned checkpoint of
            google-research/vmoe (its prefix, or any of its files). Nothing in it is run.
        key: Where in the tree the parameters are, for example ``params/img``.

    Raises:
        WeightsUnavailable: There is no such file.
        WeightsCorrupted: It is damaged, or not one of these.
        InputError: Nothing is under ``key``.
        MissingPackageError: msgpack is not installed, and the file is not an ``.npz``.
    """
    path = Path(path)
    where = repr(str(path))
    if index := index_of(path):
        root = ""

        def wanted(names: list[str]) -> set[str]:
            nonlocal root
            root = find_root(names, key, where)
            return {name for name in names if name.startswith(root)}

        values, names = read_partitioned(index, wanted)
        return _checkpoint(values, names, root)
    if path.is_dir():
        kind = "a folder of orbax" if any((path / name).exists() for name in ORBAX) else "a folder"
        raise WeightsUnavailable(
            f"{where} is {kind}: what is read are flax msgpack files, .npz files and partitioned checkpoints (PREFIX "
            "of PREFIX.index). In the program that wrote it, numpy.savez of the flattened parameters makes one."
        )
    if not path.is_file():
        raise WeightsUnavailable(f"there is no file {where}, and no {str(path) + '.index'!r}")
    values = _npz(path) if zipfile.is_zipfile(path) else dict(flat(unpack(path.read_bytes(), where)))
    if not values or list(values) == [""]:
        raise WeightsCorrupted(f"{where} holds no tree of arrays")
    root = find_root(values, key, where)
    return _checkpoint(values, list(values), root)


def _checkpoint(values: dict[str, Any], names: list[str], root: str) -> JaxCheckpoint:
    params = {name.removeprefix(root): np.asarray(values[name]) for name in names if name.startswith(root)}
    return JaxCheckpoint(params, tuple(name for name in names if not name.startswith(root)))


def _npz(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            values = {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
        raise WeightsCorrupted(f"{str(path)!r} is no sound .npz file: {error!s:.300}") from None
    for name, value in values.items():
        if not isinstance(value, np.ndarray) or value.dtype.kind not in KINDS + "V":  # V: bfloat16, as numpy keeps it
            raise WeightsCorrupted(f"{str(path)!r}: {name!r} is not an array of numbers")
    return values
