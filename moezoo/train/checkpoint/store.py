"""Checkpoint folders that survive a kill at any moment, a full disk and a power cut.

A checkpoint is written into a hidden folder, file by file, ``state.json`` with everyone's hash last, all of it
flushed to the disk; one rename makes it visible. Older ones are removed after that, never before.
"""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moezoo.errors import CheckpointError, ConfigError, InputError, MoeZooWarning
from moezoo.hub.files import file_digest, flush_folder, move_into_place, output_errors, seal
from moezoo.hub.state import portable, refuse_nonfinite
from moezoo.names import did_you_mean
from moezoo.train.checkpoint import places
from moezoo.train.checkpoint.ranks import on_main
from moezoo.train.checkpoint.state_file import STATE_NAME, NewerCheckpoint, plain_json, read_state, state_text

logger = logging.getLogger(__name__)

SUFFIX = ".safetensors"


def save_checkpoint(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any], *, keep: int = 2
) -> Path:
    """Write the checkpoint of ``step``. Every process calls it; the first one writes.

    Args:
        folder: Where the run's checkpoints are; created if need be.
        step: Optimiser steps taken so far.
        tensors: Groups such as ``"model"`` and ``"optimizer"``; one safetensors file each.
        values: Plain JSON data.
        keep: How many checkpoints stay, this one included. Checkpoints of later steps than this one belong to a
            course the run has left, and go.

    Returns:
        The checkpoint's folder.

    Raises:
        NonFiniteError: A tensor holds NaN or infinity; nothing is written.
        CheckpointError: ``values`` is no plain JSON or a tensor cannot be stored; nothing is written.
        OutputError: The disk is full or cannot be written; the older checkpoints are whole.
    """
    if keep < 1 or step < 0:
        raise ConfigError(f"keep={keep} must be at least 1 and step={step} at least 0")
    return on_main(lambda: _save(Path(folder), step, tensors, values, keep))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files are all what was saved, or ``None``. Every process calls it.

    A damaged one is passed over with a warning that names it.

    Raises:
        CheckpointError: There are checkpoints, and all are damaged; or the newest is of a newer moezoo.
    """
    return on_main(lambda: _newest(Path(folder)))


def load_checkpoint(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """The tensors (on the CPU) and values that :func:`save_checkpoint` was given.

    Raises:
        CheckpointError: There is no such checkpoint, it is damaged, or a newer moezoo wrote it.
    """
    path = Path(path)
    if not path.is_dir():
        near = did_you_mean(path.name, [other.name for other in places.checkpoint_folders(path.parent)])
        raise CheckpointError(f"there is no checkpoint folder {str(path)!r}.{near}")
    state = read_state(path)
    try:
        tensors = {name.removesuffix(SUFFIX): load_file(path / name) for name in state["files"]}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"checkpoint {str(path)!r} is damaged: {error}") from None
    return tensors, state["values"]


def tidy_checkpoints(folder: Path) -> None:
    """Drop what killed saves left behind. Only for the owner of the run folder."""

    def tidy() -> None:
        if orphans := places.remove_orphans(Path(folder)):
            logger.info("%s: removed what a killed run left: %s", folder, ", ".join(orphans))

    on_main(tidy)


def clear_checkpoints(folder: Path) -> None:
    """Remove every checkpoint, as a run that starts afresh, or has ended, does. Only for the run folder's owner."""

    def clear() -> None:
        with output_errors(Path(folder)):
            for path in places.checkpoint_folders(Path(folder)):
                places.remove(path)
        places.remove_orphans(Path(folder))

    on_main(clear)


def _newest(folder: Path) -> Path | None:
    damaged = []
    for path in reversed(places.checkpoint_folders(folder)):
        try:
            read_state(path)
        except NewerCheckpoint:
            raise
        except CheckpointError as error:
            damaged.append(str(error))
            continue
        for text in damaged:
            warnings.warn(f"{text}. The one before, {path.name}, is used.", MoeZooWarning, stacklevel=4)
        return path
    if damaged:
        raise CheckpointError(f"no checkpoint in {str(folder)!r} can be used: {'; '.join(damaged)}")
    return None


def _save(
    folder: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], values: Mapping[str, Any], keep: int
) -> Path:
    # All that can be wrong with the content is found before the disk is touched.
    groups = {name: _storable(name, group) for name, group in tensors.items()}
    values = plain_json(values, "values")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        flush_folder(folder.parent)
        draft = Path(tempfile.mkdtemp(prefix=f"{places.SAVING}{step:08d}-", dir=folder))
        try:
            files = {}
            for name, group in groups.items():
                file = draft / f"{name}{SUFFIX}"
                save_file(group, file, metadata={"format": "pt"})
                seal(file)
                files[file.name] = file_digest(file)
            state = draft / STATE_NAME
            state.write_text(state_text(step, files, values), encoding="utf-8", newline="\n")
            seal(state)
            seal(draft)
            target = places.free_place(folder, step)
            move_into_place(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    _drop_others(folder, target, keep)
    return target


def _storable(name: str, group: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"tensors[{name!r}]: a group's name is a file's name, of small letters, digits and '_'")
    try:
        state = portable(group, f"{name!r} in the checkpoint")
    except InputError as error:
        raise CheckpointError(str(error)) from None
    refuse_nonfinite(state, f"the checkpoint's {name!r} was not saved")
    return state


def _drop_others(folder: Path, target: Path, keep: int) -> None:
    """Remove what ``target`` makes superfluous. The new one is safe already: trouble here is only logged."""
    newest = places.checkpoint_key(target)
    assert newest is not None
    before = [
        path
        for path in places.checkpoint_folders(folder)
        if (key := places.checkpoint_key(path)) is not None and key[0] < newest[0]
    ]
    kept = {target, *before[max(len(before) - keep + 1, 0) :]}
    for path in places.checkpoint_folders(folder):
        if path not in kept:
            try:
                places.remove(path)
            except OSError as error:
                logger.warning("%s: could not be removed: %s", path, error.strerror or error)
