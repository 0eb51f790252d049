"""One file from an address a user names: resumed after a cut, checked, and there whole or not at all.

Plain urllib: it is everywhere, knows proxies and certificates, and what it lacks fits on a page.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from moezoo.data.connection import Cut, check_url, open_url, shown
from moezoo.errors import ConfigError, DataError, OutputError

logger = logging.getLogger(__name__)

Progress = Callable[[int, int | None], None]
"""Told the bytes that are there and all there will be, if the server says."""

ATTEMPTS = 4
"""Tries in a row that bring no byte before it is given up."""
BLOCK = 1 << 18


def download(
    url: str,
    target: Path,
    *,
    sha256: str | None = None,
    progress: Progress | None = None,
    wait: float = 1.0,
) -> Path:
    """Fetch ``url`` into ``target``, going on where an earlier call was cut.

    What has come so far lies in ``<target>.part``. It is used again only if the server says that its file is still
    the same (or ``sha256`` will tell), and gets its name when it is complete and has the hash.

    Args:
        url: ``http`` or ``https``.
        target: The file. If it is there with the right hash, or there and no hash is given, nothing is fetched.
        sha256: Hex digest the file must have.
        progress: Is told how far it is.
        wait: Seconds before the second try; each further one waits twice as long.

    Raises:
        ConfigError: ``url`` or ``sha256`` is none.
        DataError: The server does not have the file, sends a web page instead, or cannot be reached; or the file has
            another hash. Its text says what to do.
        OutputError: The file cannot be written.
    """
    check_url(url)
    if sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", sha256):
        raise ConfigError(f"sha256={sha256!r} is not allowed: it must be 64 hexadecimal digits")
    with _writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        there = target.exists()
    if target.is_dir():
        raise OutputError(f"{target} is a folder, where a file is to be written")
    if there:
        _check_hash(target, sha256, "is there already, but")
        return target
    part = target.with_name(f"{target.name}.part")
    tries = 0
    while True:
        before = _size(part)
        try:
            _fetch(url, part, sha256 is not None, progress)
            break
        except Cut as error:
            if error.stale:
                _forget(part)
            tries = 1 if _size(part) > before else tries + 1
            if tries >= ATTEMPTS:
                here = f"{_size(part):,} bytes are in {part}; the same command goes on from there."
                raise DataError(f"{shown(url)}: {error}. {here if _size(part) else 'Nothing has come.'}") from None
            logger.info("%s: %s; trying again", shown(url), error)
            time.sleep(wait * 2 ** (tries - 1))
    try:
        _check_hash(part, sha256, f"from {shown(url)} is not the file wanted:")
    except DataError:
        _forget(part)
        raise
    with _writing(target):
        os.replace(part, target)
    _forget(part)
    return target


def _fetch(url: str, part: Path, will_be_hashed: bool, progress: Progress | None) -> None:
    """One connection: append to ``part``, or write it anew, until it is complete; raises :class:`Cut` if it is not."""
    note = _read_note(part)
    address = hashlib.sha256(url.encode()).hexdigest()  # the address itself may hold a secret
    validator = note.get("validator") if note.get("address") == address else None
    start = _size(part) if validator or will_be_hashed else 0
    headers = {"User-Agent": "moezoo", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if validator:
            headers["If-Range"] = validator
    answer = open_url(urllib.request.Request(url, headers=headers))
    if answer is None:
        return
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise DataError(
                f"{shown(url)} sends a web page, not a file: it may want a login or a click in a browser. Get the file "
                "that way, or name its direct address."
            )
        if answer.status != 206 or not (answer.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            if answer.status == 206:
                raise Cut("the server sent another part of the file than was asked for", stale=True)
            start = 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length and length.isdigit() else None
        _check_space(part, (total or 0) - start)
        with _writing(part):
            _note_path(part).write_text(
                json.dumps({"address": address, "validator": _validator(answer)}), encoding="utf-8"
            )
            # Without a buffer nothing is left to be written when the disk is full.
            file = part.open("ab" if start else "wb", buffering=0)
        with file:
            done = _copy(answer, file, part, start, total, progress)
            with _writing(part):
                os.fsync(file.fileno())
    if total is not None and done < total:
        raise Cut(f"the connection was cut after {done:,} of {total:,} bytes")


def _copy(answer: Any, file: Any, part: Path, done: int, total: int | None, progress: Progress | None) -> int:
    while True:
        if progress is not None:
            progress(done, total)
        try:
            block = answer.read1(BLOCK)  # what is there, so that little is lost in a cut
        except (OSError, http.client.HTTPException) as error:
            raise Cut(f"the connection was cut after {done:,} bytes ({type(error).__name__})") from error
        if not block:
            return done
        with _writing(part):
            rest = memoryview(block)
            while rest:
                rest = rest[file.write(rest) :]
        done += len(block)


def _validator(answer: Any) -> str | None:
    """What tells that the server's file has not changed."""
    etag = answer.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")


def _note_path(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _read_note(part: Path) -> dict[str, Any]:
    try:
        note = json.loads(_note_path(part).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _forget(part: Path) -> None:
    for path in (part, _note_path(part)):
        path.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _check_hash(path: Path, sha256: str | None, what: str) -> None:
    if sha256 is None:
        return
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != sha256.lower():
        raise DataError(f"{path.name.removesuffix('.part')} {what} its sha256 is {digest.hexdigest()}, not {sha256}")


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OutputError(f"{path}: {needed:,} bytes are needed, {free:,} are free on the disk")


@contextlib.contextmanager
def _writing(path: Path):
    """An ``OSError`` becomes an :class:`OutputError` that names the path and, on a full disk, the free bytes."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        free = f" ({shutil.disk_usage(path.parent).free:,} bytes free)" if full else ""
        raise OutputError(f"{path} cannot be written: {error.strerror or error}{free}") from error
