"""A run folder has one owner."""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from moezoo.errors import RunLockedError
from moezoo.hub.files import output_errors
from moezoo.train.checkpoint.ranks import on_main

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

LOCK_NAME = "run.lock"

_held: set[int] = set()


@contextlib.contextmanager
def own_run_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Own ``folder`` for as long as the context is open. Of several processes of one run the first holds it.

    The lock is the operating system's (``flock`` on ``run.lock``) and ends with the process that holds it, however
    that ends: what a killed run leaves behind is taken over. Windows, and file systems without locks, have none;
    there two runs in one folder are not kept apart.

    Raises:
        RunLockedError: Another process owns it; the text names its number, host and since when.
        OutputError: The lock cannot be written.
    """
    path = Path(folder) / LOCK_NAME
    descriptors: list[int] = []
    on_main(lambda: descriptors.extend(_take(path)))
    try:
        yield
    finally:
        for descriptor in descriptors:
            path.unlink(missing_ok=True)
            _held.discard(descriptor)
            os.close(descriptor)


def _take(path: Path) -> list[int]:
    """The open descriptor that holds the lock; none where there are no locks."""
    if fcntl is None:
        return []
    with output_errors(path):
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.read(descriptor, 4096)
                os.close(descriptor)
                raise RunLockedError(f"run folder {str(path.parent)!r} is in use by {_words(owner)}") from None
            except OSError as error:
                os.close(descriptor)
                logger.warning("%s: this file system has no locks (%s): start no second run here", path, error.strerror)
                return []
            if _is(path, descriptor):
                break
            os.close(descriptor)  # its owner removed it between the two calls
        os.ftruncate(descriptor, 0)
        os.write(descriptor, _owner().encode())
    _held.add(descriptor)
    return [descriptor]


def _is(path: Path, descriptor: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def _owner() -> str:
    since = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    return json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": since}) + "\n"


def _words(owner: bytes) -> str:
    try:
        who = json.loads(owner)
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (ValueError, LookupError, TypeError):
        return "another process"


def _let_go_in_child() -> None:
    # A forked worker shares the lock, and would hold it on after its parent was killed.
    while _held:
        with contextlib.suppress(OSError):
            os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go_in_child)
