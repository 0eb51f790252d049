"""Features as a ``.npz`` file of numpy, written row by row: the rows are never in memory together."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from torch import Tensor

from moezoo.hub.files import output_errors

Write = Callable[[str, Tensor], None]


@contextmanager
def feature_file(path: str | os.PathLike[str]) -> Iterator[Write]:
    """A function that appends a path and its (D,) features. The file is there, whole, at the end.

    ``numpy.load(path)`` has ``features`` (N, D) float32 and ``paths`` (N,).

    Raises:
        OutputError: The file cannot be written.
    """
    target, names, width = Path(path), [], 0
    part = target.with_name(f".{target.name}.part")
    with output_errors(target):
        rows = tempfile.TemporaryFile(dir=target.parent)  # noqa: SIM115
    with rows:

        def write(name: str, features: Tensor) -> None:
            nonlocal width
            names.append(name)
            width = len(features)
            with output_errors(target):
                rows.write(np.ascontiguousarray(features.numpy(), dtype="<f4").tobytes())

        yield write
        with output_errors(target):
            try:
                _pack(part, rows, names, width)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)


def _pack(target: Path, rows: IO[bytes], names: list[str], width: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(names), width)}
    rows.seek(0)
    with zipfile.ZipFile(target, "w") as archive:
        with archive.open("features.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(rows, member)
        with archive.open("paths.npy", "w", force_zip64=True) as member:
            # Bytes of a file name that are no UTF-8 cannot be text.
            text = [os.fsencode(name).decode("utf-8", "replace") for name in names]
            np.lib.format.write_array(member, np.array(text, dtype=np.str_))
