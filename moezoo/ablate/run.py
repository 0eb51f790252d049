"""Doing an ablation: the runs that are missing, and what the dials of the base do."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from moezoo.ablate.cells import Cell, Setting, settings_of
from moezoo.ablate.dials import turned
from moezoo.ablate.efficiency import Efficiency, efficiencies
from moezoo.ablate.factors import words
from moezoo.ablate.measured import Measured, measure_model, measure_run
from moezoo.ablate.plan import Plan
from moezoo.ablate.progress import Unwatched, Watcher
from moezoo.ablate.result import Ablation, make_rows
from moezoo.ablate.store import CellFolder, drop_cells, open_cells
from moezoo.errors import ConfigError, Interrupted
from moezoo.registry import build, model_config
from moezoo.train import create_for, find_device, probe_folder, train_recipe
from moezoo.train.checkpoint import clear_checkpoints
from moezoo.train.lock import own_run_folder

logger = logging.getLogger(__name__)

RUNS = "runs"
"""Subfolder of the runs."""
DIAL_WORK = 0.03
"""What an evaluation of a dial is held to take of a run, for the time left."""


def ablate(plan: Plan, out: str | Path, *, watcher: Watcher | None = None, overwrite: bool = False) -> Ablation:
    """Train what ``plan`` asks for, each run in its own folder below ``out/runs``, and write the table.

    The same call goes on where an earlier one was killed: a finished run is read, one under way goes on from its
    newest checkpoint. ``ablation.csv`` and ``ablation.json`` are written after every result.

    Args:
        plan: From :func:`~moezoo.ablate.resolve_plan`.
        out: The ablation's folder.
        watcher: Is told about runs and results, for example an :class:`~moezoo.ablate.progress.AblationBar`.
        overwrite: Drop the runs that ``out`` holds.

    Raises:
        ConfigError: A value of a factor is not allowed, or the model has no such dial; found before anything is
            trained. Or this is one of several processes of a run.
        CheckpointError: ``out`` holds an ablation of something else; what differs is named.
        RunLockedError: Another process works in ``out``.
        Interrupted: SIGTERM or SIGINT came during a run; it was saved.
        OutputError: ``out`` cannot be written.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("an ablation runs in one process: start moezoo ablate without a launcher of processes.")
    settings = settings_of(plan)
    cells = _distinct(settings)
    _check(settings, cells)
    folder, shown = probe_folder(Path(out)), watcher if watcher is not None else Unwatched()
    with own_run_folder(folder):
        if overwrite:
            drop_cells(folder / RUNS)
        return _Ablating(plan, settings, folder, open_cells(folder / RUNS, cells), shown).all()


class _Ablating:
    """One ablation in its open folder."""

    def __init__(
        self, plan: Plan, settings: list[Setting], folder: Path, folders: dict[str, CellFolder], watcher: Watcher
    ):
        self.plan, self.settings, self.folder, self.folders = plan, settings, folder, folders
        self.watcher = watcher
        self.found: dict[str, Measured] = {}
        self.costs: dict[str, Efficiency] = {}

    def all(self) -> Ablation:
        """Every setting, the base first."""
        done = {name: result for name, f in self.folders.items() if (result := f.result()) is not None}
        dials = [(s, cell) for s in self.settings if s.is_dial for cell in s.cells]
        left = sum(self.folders[cell.folder].dialled(s.factor, s.value) is None for s, cell in dials)
        self.watcher.begin(len(self.folders) - len(done) + DIAL_WORK * left, len(done))
        self.found |= done
        try:
            for setting in self.settings:
                for cell in setting.cells:
                    if cell.folder not in self.found:
                        self.found[cell.folder] = self._train(cell)
                        self._so_far()
            self._turn_dials()
            if self.plan.measure:
                self.costs = self._measure()
            return self._so_far()
        finally:
            self.watcher.stop()

    def _train(self, cell: Cell) -> Measured:
        """A run from its beginning or its newest checkpoint to its result."""
        folder = self.folders[cell.folder]
        resume = "auto" if folder.claimed else None
        folder.claim()
        recipe = cell.recipe
        try:
            run = train_recipe(
                recipe,
                folder.path,
                pretrained=self.plan.pretrained,
                observer=self.watcher.run(cell.folder),
                resume=resume,
            )
        except Interrupted as error:
            raise Interrupted(error.signum, f"{cell.folder}; the same command goes on from there") from error
        measured = measure_run(run)
        folder.keep(measured)
        clear_checkpoints(folder.path / "checkpoints")  # of a finished run nothing is gone on with
        self.watcher.measured(cell.folder, measured, 1.0)
        return measured

    def _turn_dials(self) -> None:
        settings = [setting for setting in self.settings if setting.is_dial]
        for cell in settings[0].cells if settings else ():
            folder, load = self.folders[cell.folder], _once(partial(self._load, cell))
            for setting in settings:
                title = f"{setting.factor}={words(setting.value)}"
                measured = folder.dialled(setting.factor, setting.value)
                if measured is None:
                    self.watcher.run(f"{title} of {cell.folder}")
                    model, splits = load()
                    with turned(model, setting.factor, setting.value):
                        measured = measure_model(model, splits, cell.recipe)
                    folder.keep_dialled(setting.factor, setting.value, measured)
                    self.watcher.measured(title, measured, DIAL_WORK)
                self.found[_dialled(setting, cell)] = measured
                self._so_far()

    def _measure(self) -> dict[str, Efficiency]:
        """What the models cost: the first seed's of every setting, side by side. It is measured again in every call."""
        self.watcher.run("time and memory")
        cells = _distinct(dataclasses.replace(s, cells=s.cells[:1]) for s in self.settings if not s.is_dial)
        return efficiencies({cell.folder: self._load(cell) for cell in cells}, cells[0].folder)

    def _load(self, cell: Cell) -> Any:
        """The trained model of a finished run, and its data."""
        stored = f"local-dir:{self.folders[cell.folder].path}"
        model, splits = create_for(dataclasses.replace(cell.recipe, name=stored, model={}))
        return model.to(find_device(cell.recipe.training.device)).eval(), splits

    def _so_far(self) -> Ablation:
        """The settings whose runs are all there, in the files too."""
        rows = []
        for setting in self.settings:
            names = [_dialled(setting, cell) if setting.is_dial else cell.folder for cell in setting.cells]
            if all(name in self.found for name in names):
                rows.append((setting, tuple(self.found[name] for name in names)))
        ablation = Ablation(self.plan, make_rows(rows, self.costs))
        ablation.write(self.folder)
        return ablation


def _distinct(settings: Iterable[Setting]) -> list[Cell]:
    return list({cell.folder: cell for setting in settings for cell in setting.cells}.values())


def _check(settings: Iterable[Setting], cells: Iterable[Cell]) -> None:
    """Build every model without memory for weights, and turn the dials: a mistake shows before hours of training."""
    built: dict[str, Any] = {}
    for cell in cells:
        config = model_config(cell.recipe.name, **cell.recipe.model)
        if repr(config) not in built:
            with torch.device("meta"):
                built[repr(config)] = build(config)
    model = next(iter(built.values()))  # the base comes first
    for setting in settings:
        if setting.is_dial:
            with turned(model, setting.factor, setting.value):
                pass


def _dialled(setting: Setting, cell: Cell) -> str:
    return f"{setting.factor}={words(setting.value)} of {cell.folder}"


def _once(make: Callable[[], Any]) -> Callable[[], Any]:
    """``make``, called when first asked."""
    made: list[Any] = []

    def get() -> Any:
        if not made:
            made.append(make())
        return made[0]

    return get
