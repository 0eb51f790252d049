"""What an ablation keeps of one run: what it is about, and, once it is finished, what was measured."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moezoo.ablate.cells import Cell, Facts, differences
from moezoo.ablate.measured import Measured
from moezoo.errors import CheckpointError
from moezoo.hub.files import output_errors
from moezoo.train import probe_folder
from moezoo.train.output import read_written, write_json

CLAIM, RESULT, DIALLED = "ablation_cell.json", "ablation_result.json", "ablation_dials.json"


@dataclass(frozen=True)
class CellFolder:
    """The folder of one run."""

    path: Path
    facts: Facts

    @property
    def claimed(self) -> bool:
        """Whether this run was begun here."""
        return (self.path / CLAIM).is_file()

    def claim(self) -> None:
        """Write down what the run is about, before it begins: nobody goes on with it as another."""
        probe_folder(self.path)
        write_json(self.path / CLAIM, self.facts)

    def wrong(self) -> list[str]:
        """How what lies here differs from what is wanted; empty where nothing lies here."""
        return list(differences(_read(self.path / CLAIM), self.facts)) if self.claimed else []

    def result(self) -> Measured | None:
        """Of a finished run."""
        path = self.path / RESULT
        return Measured.from_dict(_read(path)) if path.is_file() else None

    def keep(self, measured: Measured) -> None:
        """The run is finished."""
        write_json(self.path / RESULT, measured.to_dict())

    def dialled(self, dial: str, value: Any) -> Measured | None:
        """What was measured with the dial at ``value``, if it was."""
        path = self.path / DIALLED
        found = _read(path).get(_setting(dial, value)) if path.is_file() else None
        return Measured.from_dict(found) if found is not None else None

    def keep_dialled(self, dial: str, value: Any, measured: Measured) -> None:
        """Add it to what was measured before."""
        path = self.path / DIALLED
        before = _read(path) if path.is_file() else {}
        write_json(path, {**before, _setting(dial, value): measured.to_dict()})


def open_cells(runs: Path, cells: Sequence[Cell]) -> dict[str, CellFolder]:
    """The folders of all runs by the names of their cells, checked before any of them begins.

    Raises:
        CheckpointError: Runs that lie there were begun with something different, which is named.
    """
    folders = {cell.folder: CellFolder(runs / cell.folder, cell.facts) for cell in cells}
    wrong: dict[str, list[str]] = {}
    for name, folder in folders.items():
        for difference in folder.wrong():
            wrong.setdefault(difference, []).append(name)
    if wrong:
        told = "; ".join(f"{what} ({_names(names)})" for what, names in wrong.items())
        raise CheckpointError(
            f"{str(runs.parent)!r} holds another ablation: {told}. Set them as they were, take another folder "
            "(--out), or drop what lies there (--overwrite)."
        )
    return folders


def drop_cells(runs: Path) -> None:
    """Remove every run of an ablation that lies here, and nothing else."""
    for claim in runs.glob(f"*/*/{CLAIM}"):
        with output_errors(claim.parent):
            shutil.rmtree(claim.parent)


def _names(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _setting(dial: str, value: Any) -> str:
    return f"{dial}={json.dumps(value)}"


def _read(path: Path) -> dict[str, Any]:
    return read_written(path, "an ablation", " Remove it, and its run is repeated.")
