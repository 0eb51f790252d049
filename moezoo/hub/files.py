"""Durable files: written whole and fsynced under a hidden name first, then renamed. No torch here."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from moezoo.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has no flock; a folder is then not guarded against a second writer
    fcntl = None  # type: ignore[assignment]

STAGING = ".moezoo-saving"
"""Subfolder in which files are written before they are renamed; only a killed process leaves it behind."""


def check_writable(folder: str | os.PathLike[str]) -> Path:
    """Create ``folder`` if need be and prove, by writing, that files can be put into it.

    Call it before work that would be lost if its result could not be saved.

    Raises:
        OutputError: Naming the folder and the reason.
    """
    path = Path(folder)
    if path.is_file():
        raise OutputError(f"{str(path)!r} is a file; a folder is needed here")
    with output_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(b"\0")
            probe.flush()
    return path


@contextlib.contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError``, or safetensors' own, into an :class:`OutputError` that names ``path`` and the free space."""
    try:
        yield
    except OutputError:
        raise
    except (OSError, SafetensorError) as error:
        why = getattr(error, "strerror", None) or error
        raise OutputError(f"{str(path)!r} cannot be written: {why}{free_space(path)}") from error


def free_space(path: Path) -> str:
    """`` (N bytes free)`` on the disk that holds ``path`` or its nearest parent; empty if unknown."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return f" ({shutil.disk_usage(place).free:,} bytes free)"
    return ""


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Let one writer at a time into ``folder``, and no reader; the others wait. The lock dies with its process."""
    if fcntl is None:
        yield
        return
    with _locked(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def unchanging(folder: Path) -> Iterator[None]:
    """Keep writers out of ``folder`` while several of its files are read; needs no right to write there."""
    try:
        descriptor = os.open(folder, os.O_RDONLY) if fcntl is not None else None
    except OSError:  # there is none, or its files can be read and not listed
        descriptor = None
    if descriptor is None:
        yield
        return
    with _locked(descriptor, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def _locked(descriptor: int, kind: int) -> Iterator[None]:
    try:
        with contextlib.suppress(OSError):  # some network file systems have no locks
            fcntl.flock(descriptor, kind)
        yield
    finally:
        with contextlib.suppress(OSError):  # closing alone leaves it with a process forked meanwhile
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def seal(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk and give it the mode that the umask asks for."""
    umask = os.umask(0)
    os.umask(umask)
    if path.is_dir():
        path.chmod(0o777 & ~umask)
        flush_folder(path)
        return
    path.chmod(0o666 & ~umask)
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Flush a folder's list of names to the disk."""
    with contextlib.suppress(OSError):  # folders cannot be opened on Windows
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def move_into_place(source: Path, target: Path) -> None:
    """Atomic rename, flushed, so that after a power cut the target is the old file or the new one."""
    os.replace(source, target)
    flush_folder(target.parent)


@contextlib.contextmanager
def drafted(path: Path) -> Iterator[Path]:
    """A file to write in the place of ``path``, which it takes at the end, atomically and durably; or not at all.

    Raises:
        OutputError: The file cannot be written; the old one is still whole.
    """
    staging = path.parent / STAGING
    draft = staging / path.name
    with output_errors(path):
        staging.mkdir(exist_ok=True)
        try:
            yield draft
            seal(draft)
            move_into_place(draft, path)
        finally:
            draft.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # another file waits there, or what a killed save left
                staging.rmdir()


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8, ``\\n`` line ends), as :func:`drafted` does."""
    with drafted(path) as draft:
        draft.write_bytes(text.encode("utf-8"))


def file_digest(path: Path, algorithm: str = "sha256", prefix: bytes = b"") -> str:
    """Hex digest of ``prefix`` followed by the file's bytes."""
    digest = hashlib.new(algorithm, prefix, usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
