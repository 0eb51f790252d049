"""``write_jax``: parameters into a file that JAX programs read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moezoo.errors import ConfigError, OutputError
from moezoo.hub.files import check_writable, drafted, exclusive
from moezoo.hub.jax_files.flax_msgpack import pack
from moezoo.hub.jax_files.tree import nested

SUFFIXES = (".npz", ".msgpack")


def check_target(out: str | os.PathLike[str], overwrite: bool) -> Path:
    """``out`` as a path.

    Raises:
        ConfigError: It ends otherwise than in ``.npz`` or ``.msgpack``.
        OutputError: It exists, and is not to be replaced.
    """
    target = Path(out)
    if target.suffix not in SUFFIXES:
        raise ConfigError(f"out={str(target)!r} must end in {' or '.join(SUFFIXES)}")
    if target.exists() and not overwrite:
        raise OutputError(f"{str(target)!r} exists: overwrite=True (--overwrite) replaces it, another name keeps both")
    return target


def write_jax(params: Mapping[str, NDArray[Any]], out: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write ``/``-joined names and arrays: ``.npz`` as they are, ``.msgpack`` as flax's tree. Whole, or not at all.

    Raises:
        ConfigError, OutputError: As :func:`check_target`, or the file cannot be written.
        MissingPackageError: msgpack is not installed, and ``out`` is not an ``.npz``.
    """
    target = check_target(out, overwrite)
    with exclusive(check_writable(target.parent)), drafted(target) as draft:
        if target.suffix == ".npz":
            np.savez(draft, **params)  # type: ignore[arg-type]
        else:
            draft.write_bytes(pack(nested(params)))
    return target
