"""Disks that are full or cannot be written."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file of this process grows beyond ``limit`` bytes: a full disk that every user can have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))  # Python ignores SIGXFSZ, so writes fail
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def tmpfs(place: Path, megabytes: int) -> Iterator[Path]:
    """A file system of that size; skips the test where mounting is not allowed."""
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a file system needs root")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextlib.contextmanager
def read_only(place: Path) -> Iterator[Path]:
    """A folder in which nothing can be made: by its mode, or for root, whom modes do not stop, by its mount."""
    if os.geteuid() == 0:
        with tmpfs(place, 1):
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
            yield place
    else:
        place.mkdir(mode=0o555)
        yield place
        place.chmod(0o755)
