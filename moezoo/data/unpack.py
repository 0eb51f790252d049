"""Archives from elsewhere: only files and folders come out, below the folder they belong into, all or none."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from moezoo.errors import DataError, MoeZooError, OutputError


class _Member(NamedTuple):
    name: str
    size: int
    is_folder: bool
    is_file: bool
    open: Callable[[], IO[bytes] | None]


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a zip or tar file (packed or not), by its content."""
    return zipfile.is_zipfile(path) or tarfile.is_tarfile(path)


def unpack(archive: Path, root: Path, *, progress: Callable[[int, int], None] | None = None) -> list[Path]:
    """Unpack a zip or tar file into ``root``; the new files and folders at its top.

    Args:
        archive: The file.
        root: Where to. Everything is written into a hidden folder there first and moved when it is complete.
        progress: Is told the unpacked bytes so far, and all of them.

    Raises:
        DataError: No archive, a damaged or encrypted one, one with links or with names that lead out of ``root``, or
            something of its name is there already. Nothing is left behind.
        OutputError: The disk is full, or ``root`` cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _opened(archive) as source:
            members = list(_zip_members(source) if isinstance(source, zipfile.ZipFile) else _tar_members(source))
            paths = [_safe(archive, member) for member in members]
            _check(archive, root, members, paths)
            with tempfile.TemporaryDirectory(dir=root, prefix=".unpacking-") as draft:
                done, total = 0, sum(member.size for member in members)
                for member, path in zip(members, paths, strict=True):
                    _write(member, Path(draft, path))
                    done += member.size
                    if progress is not None:
                        progress(done, total)
                made = sorted(Path(draft).iterdir())
                for top in made:
                    os.replace(top, root / top.name)
    except MoeZooError:
        raise
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, ValueError, NotImplementedError) as error:
        raise DataError(f"{archive} is damaged or cut: {error or type(error).__name__}") from error
    except OSError as error:
        if error.errno is None:  # the decoders of bz2 and gzip use it for damage
            raise DataError(f"{archive} is damaged or cut: {error}") from error
        free = shutil.disk_usage(root if root.is_dir() else root.parent).free
        raise OutputError(
            f"{archive} cannot be unpacked into {root}: {error.strerror} ({free:,} bytes free)"
        ) from error
    except Exception as error:
        if type(error).__module__ in ("zlib", "lzma", "_lzma"):
            raise DataError(f"{archive} is damaged or cut: {error}") from error
        raise
    return [root / top.name for top in made]


def _opened(archive: Path) -> zipfile.ZipFile | tarfile.TarFile:
    if zipfile.is_zipfile(archive):
        return zipfile.ZipFile(archive)
    if tarfile.is_tarfile(archive):
        return tarfile.open(archive)
    raise DataError(f"{archive} is neither a zip nor a tar file")


def _zip_members(source: zipfile.ZipFile) -> Iterator[_Member]:
    for info in source.infolist():
        if info.flag_bits & 1:
            raise DataError(f"{source.filename} is encrypted; unpack it yourself")
        kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the writer knows no such thing
        plain = not info.is_dir() and kind in (0, stat.S_IFREG)
        yield _Member(info.filename, info.file_size, info.is_dir(), plain, lambda info=info: source.open(info))  # type: ignore[misc]


def _tar_members(source: tarfile.TarFile) -> Iterator[_Member]:
    for info in source:
        yield _Member(
            info.name, info.size, info.isdir(), info.isreg(), lambda info=info: source.extractfile(info)  # type: ignore[misc]
        )  # fmt: skip


def _safe(archive: Path, member: _Member) -> PurePosixPath:
    """The member's place below the root."""
    path = PurePosixPath(member.name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or ":" in (path.parts or ("",))[0] or "\0" in member.name:
        raise DataError(f"{archive} holds {member.name!r}, which leads out of the folder it is unpacked into; refused")
    if not (member.is_folder or member.is_file):
        raise DataError(f"{archive} holds {member.name!r}, which is a link or a device; refused")
    return path


def _check(archive: Path, root: Path, members: list[_Member], paths: list[PurePosixPath]) -> None:
    tops = sorted({path.parts[0] for path in paths if path.parts})
    if not tops:
        raise DataError(f"{archive} is empty")
    there = [str(root / name) for name in tops if (root / name).exists()]
    if there:
        raise DataError(f"{archive} would be unpacked over {', '.join(there)}: already there; move it away to do so")
    needed, free = sum(member.size for member in members), shutil.disk_usage(root).free
    if needed > free:
        raise OutputError(f"{archive}: {needed:,} bytes are needed, {free:,} are free in {root}")


def _write(member: _Member, path: Path) -> None:
    if member.is_folder:
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    source = member.open()
    assert source is not None  # a regular file
    with source, path.open("xb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
