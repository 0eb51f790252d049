"""The folder a run writes into."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moezoo.errors import OutputError


def probe_folder(path: str | Path) -> Path:
    """Make the folder and write a file into it, so that a bad path is found before anything is trained.

    Raises:
        OutputError: It is a file, or cannot be created or written; the message names it and the reason.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".probe-") as probe:
            probe.write(b"moezoo")
            probe.flush()
    except OSError as error:
        raise OutputError(f"output folder {str(folder)!r} cannot be written: {error.strerror or error}") from None
    return folder


def write_text(path: Path, text: str) -> None:
    """Write ``path`` whole or not at all: a reader never sees half of it.

    Raises:
        OutputError: The file cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None


def write_json(path: Path, data: Any) -> None:
    """``data`` as indented JSON; NaN and infinity are refused, since other readers would not take them."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


class MetricsLog:
    """``metrics.jsonl``: one JSON object per line, on disk after every :meth:`add`. Starts empty."""

    def __init__(self, path: Path):
        self._path = path
        write_text(path, "")

    def add(self, row: Mapping[str, Any]) -> None:
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise OutputError(f"{str(self._path)!r} cannot be written: {error.strerror or error}") from None
