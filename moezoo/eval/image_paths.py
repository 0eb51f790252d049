"""From files, folders and lists of paths to single paths, one at a time: only the names of one folder are held."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from moezoo.data.images import EXTENSIONS
from moezoo.errors import DataError

LIST = "-"
"""The input that stands for a list of paths, one a line, on standard input."""


def image_paths(inputs: Sequence[str], *, recursive: bool = False, lines: BinaryIO | None = None) -> Iterator[str]:
    """The image files behind ``inputs``, in their order; the files of a folder by name.

    A path that is no folder comes back as it is, whether there is such a file or not: reading it tells.

    Args:
        inputs: Paths of files and folders; ``-`` stands for ``lines``.
        recursive: Search the folders in a folder too.
        lines: Paths, one a line; blank lines count for nothing.

    Raises:
        DataError: A folder cannot be read or holds no image, or ``-`` is given without ``lines``.
    """
    for given in inputs:
        if given == LIST:
            if lines is None:
                raise DataError(f"the input {LIST!r} takes a list of paths, and there is none to read")
            yield from listed(lines)
        elif os.path.isdir(given):
            found = _search(given, recursive)
            first = next(found, None)
            if first is None:
                deeper = "" if recursive else ", folders in it left aside (--recursive)"
                raise DataError(f"folder {given!r} holds no image{deeper}. Endings: {', '.join(sorted(EXTENSIONS))}")
            yield first
            yield from found
        else:
            yield given


def listed(lines: Iterable[bytes]) -> Iterator[str]:
    """The paths of a list: any bytes that a file name may hold, LF or CRLF, with or without a byte order mark."""
    for number, line in enumerate(lines):
        path = line.removeprefix(b"\xef\xbb\xbf" if number == 0 else b"").rstrip(b"\r\n")
        if path.strip():
            yield os.fsdecode(path)


def _search(folder: str, recursive: bool) -> Iterator[str]:
    """Its files by name, then its folders'. The file system's own order changes from machine to machine."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir():
                    if recursive and not entry.is_symlink():  # a link may lead back up
                        folders.append(entry.name)
                elif os.path.splitext(entry.name)[1].lower() in EXTENSIONS:
                    files.append(entry.name)
    except OSError as error:
        raise DataError(f"folder {folder!r} cannot be read: {error.strerror or error}") from None
    yield from (os.path.join(folder, name) for name in sorted(files))
    for name in sorted(folders):
        yield from _search(os.path.join(folder, name), recursive)
