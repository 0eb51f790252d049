"""Predictions as CSV, JSON or JSON lines, written one by one: what is on disk is whole even when a run is stopped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from moezoo.errors import OutputError
from moezoo.eval.files import Prediction
from moezoo.moe.checks import check_choice

FORMATS = ("csv", "json", "jsonl")

Write = Callable[[Prediction], None]


def format_of(path: Path | None, format: str | None) -> str:
    """The format asked for, else the one the file's ending names, else CSV.

    Raises:
        ConfigError: There is no such format.
    """
    if format is None and path is not None:
        format = path.suffix.lower().removeprefix(".")
    return check_choice("format", format or "csv", FORMATS)


@contextmanager
def prediction_file(path: Path, format: str, *, top: int, routing: bool = False) -> Iterator[Write]:
    """A function that appends a prediction to a new file.

    Raises:
        OutputError: The file cannot be written.
    """
    try:
        # Bytes of a file name that are no UTF-8 come out as they were.
        file = path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
        with file, prediction_writer(file, format, top=top, routing=routing) as write:
            yield write
    except OSError as error:
        if isinstance(error, OutputError):
            raise
        raise OutputError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None


@contextmanager
def prediction_writer(file: TextIO, format: str, *, top: int, routing: bool = False) -> Iterator[Write]:
    """A function that appends a prediction to an open text file.

    Args:
        file: Opened with ``newline=""``.
        format: Of :data:`FORMATS`.
        top: Pairs of columns ``label_1, probability_1, …`` in CSV; 0 for one column ``caption``.
        routing: Whether CSV has a column ``routing``, which holds JSON.
    """
    writers = {"csv": _csv, "json": _json, "jsonl": _jsonl}
    with writers[format](file, top, routing) as write:
        yield write


@contextmanager
def _csv(file: TextIO, top: int, routing: bool) -> Iterator[Write]:
    rows = csv.writer(file, lineterminator="\n")
    pairs = [column for i in range(1, top + 1) for column in (f"label_{i}", f"probability_{i}")]
    rows.writerow(["path", *(pairs or ["caption"]), "error", *(["routing"] if routing else [])])

    def write(prediction: Prediction) -> None:
        found: list[str] = [] if top else [prediction.caption or ""]
        for label, probability in zip(prediction.labels, prediction.probabilities, strict=True):
            found += [label, f"{probability:.6g}"]
        found += [""] * (len(pairs) - len(found))
        row = [prediction.path, *found, prediction.error or ""]
        if routing:
            shares = prediction.to_dict().get("routing")
            row.append("" if shares is None else _text(shares))
        rows.writerow(row)

    yield write


@contextmanager
def _jsonl(file: TextIO, top: int, routing: bool) -> Iterator[Write]:
    def write(prediction: Prediction) -> None:
        file.write(_text(prediction.to_dict()) + "\n")

    yield write


@contextmanager
def _json(file: TextIO, top: int, routing: bool) -> Iterator[Write]:
    """One list. It is closed whatever happens, so that a stopped run leaves JSON behind."""
    between = "["

    def write(prediction: Prediction) -> None:
        nonlocal between
        file.write(f"{between}\n{_text(prediction.to_dict())}")
        between = ","

    try:
        yield write
    finally:
        file.write(f"{'[' if between == '[' else ''}\n]\n")


def _text(data: object) -> str:
    text = json.dumps(data, ensure_ascii=False, allow_nan=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # a file name of bytes that are no UTF-8; JSON has to be
        text = json.dumps(data, allow_nan=False)
    return text
