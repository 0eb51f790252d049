"""The folder of a search: what it is about, and a folder for every design."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moezoo.errors import CheckpointError, OutputError
from moezoo.hub.files import output_errors
from moezoo.search.spaces import Design
from moezoo.train import probe_folder
from moezoo.train.output import read_written, write_json

CLAIM, DESIGNS = "search.json", "designs"


def claim(folder: Path, facts: Mapping[str, Any], *, resume: bool = True, overwrite: bool = False) -> bool:
    """Take ``folder`` for the search that ``facts`` describe; whether it goes on with one that lies there.

    Args:
        folder: Made if need be.
        facts: All that decides what is found, as JSON has it.
        resume: Whether to go on with a search that lies there.
        overwrite: Drop it.

    Raises:
        CheckpointError: Another search lies there; what differs is named.
        OutputError: The folder cannot be written, or holds a search and neither ``resume`` nor ``overwrite`` is given.
    """
    probe_folder(folder)
    if overwrite:
        drop(folder)
    wanted = json.loads(json.dumps(facts))
    if not (folder / CLAIM).is_file():
        write_json(folder / CLAIM, wanted)
        return False
    there = read_written(folder / CLAIM, "a search")
    if wrong := list(differences(there, wanted)):
        raise CheckpointError(
            f"{str(folder)!r} holds another search: {'; '.join(wrong)}. Set them as they were, take another folder "
            "(--out), or drop what lies there (--overwrite)."
        )
    if not resume:
        raise OutputError(
            f"{str(folder)!r} holds a search already. Go on with it by --resume (resume=True), drop it by --overwrite "
            "(overwrite=True), or take another folder."
        )
    return True


def place_of(folder: Path, design: Design) -> Path:
    """Where a design is trained."""
    return folder / DESIGNS / design.key


def drop(folder: Path) -> None:
    """Remove what a search wrote, and nothing else."""
    with output_errors(folder):
        for name in (CLAIM, "journal.log", "best.json"):
            (folder / name).unlink(missing_ok=True)
        for path in (folder / DESIGNS, folder / "best"):
            if path.is_dir():
                shutil.rmtree(path)


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """``seed: 0 there, 1 now`` for all that differs."""
    for key in (*there, *(key for key in wanted if key not in there)):
        if there.get(key) != wanted.get(key):
            yield f"{key}: {there.get(key)!r} there, {wanted.get(key)!r} now"
