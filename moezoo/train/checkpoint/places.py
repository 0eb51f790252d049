"""Which folders a run's checkpoints are, and how they go away.

Whole checkpoints are called ``step-00000123``. A folder whose name begins with a dot is half written or half
removed: it counts for nothing, and :func:`tidy_checkpoints` drops it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from moezoo.hub.files import output_errors

SAVING = ".saving-"
REMOVING = ".removing-"
_NAME = re.compile(r"step-(\d{8,})(?:\.(\d+))?")


def checkpoint_key(path: Path) -> tuple[int, int] | None:
    """Step and, where the step was saved more than once, which time; ``None`` for any other name."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 1)) if match else None


def checkpoint_folders(folder: Path) -> list[Path]:
    """The folders that are called like checkpoints, oldest first."""
    if not folder.is_dir():
        return []
    found = [(key, path) for path in folder.iterdir() if (key := checkpoint_key(path)) and path.is_dir()]
    return [path for _, path in sorted(found)]


def free_place(folder: Path, step: int) -> Path:
    """A name for the checkpoint of ``step`` that is not taken.

    A folder cannot be replaced in one stroke, so a second save of the same step stands beside the first
    until the first is removed.
    """
    taken = [key[1] for path in checkpoint_folders(folder) if (key := checkpoint_key(path)) and key[0] == step]
    return folder / (f"step-{step:08d}.{max(taken) + 1}" if taken else f"step-{step:08d}")


def remove(path: Path) -> None:
    """Remove a checkpoint: renamed first, so that no half of it can be taken for a whole one."""
    doomed = path.with_name(REMOVING + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    os.replace(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_orphans(folder: Path) -> list[str]:
    """Drop what killed saves and removals left; their names."""
    orphans = [path for start in (SAVING, REMOVING) for path in folder.glob(f"{start}*")]
    for path in orphans:
        with output_errors(path):
            shutil.rmtree(path)
    return sorted(path.name for path in orphans)
