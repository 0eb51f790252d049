"""What outlives a step: logs, averaged and best weights, and checkpoints that a run goes on from."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from moezoo.config import to_dict
from moezoo.errors import MoeZooWarning, OutputError
from moezoo.train.checkpoint import (
    load_checkpoint,
    load_model_state,
    load_optimizer_state,
    model_state,
    optimizer_state,
    rng_state,
    save_checkpoint,
    set_rng_state,
)
from moezoo.train.ema import KeptWeights
from moezoo.train.facts import check_facts, run_facts
from moezoo.train.folder import RunFolder
from moezoo.train.output import RunLog, step_row, write_json, write_text
from moezoo.train.parts import Parts
from moezoo.train.result import EpochMetrics
from moezoo.train.seeding import mix, seed_all
from moezoo.train.standing import Standing
from moezoo.train.step_values import StepValues


class Keeper:
    """Of one run. Without a folder it keeps the weights and writes nothing."""

    def __init__(self, parts: Parts, folder: RunFolder | None, data_options: Mapping[str, Any] | None = None):
        self.parts, self.folder = parts, folder
        self.facts = run_facts(parts.model, parts.splits, data_options, parts.task.facts())
        self.standing = Standing()
        self.ema = KeptWeights(parts.model) if parts.config.ema_decay is not None else None
        self.best_weights = KeptWeights(parts.model, "cpu")  # rarely asked for, and memory is scarcer elsewhere
        self.log: RunLog | None = None
        self._warned = False
        self._saved: tuple[tuple[int, int], Path] | None = None

    def begin(self, recipe: str | None = None) -> None:
        """Go on from the folder's checkpoint, if it has one, and open the logs."""
        if self.folder is None:
            return
        if self.folder.resume is not None:
            self._load(*load_checkpoint(self.folder.resume))
        if self.parts.parallel.is_main:
            path, standing = self.folder.path, self.standing
            if recipe is not None:
                write_text(path / "config.yaml", recipe)
            tensorboard = self.parts.config.tensorboard
            self.log = RunLog(path, standing.history, standing.step, tensorboard=tensorboard)

    def end_step(self, values: StepValues, lr: float, seconds: float) -> None:
        """Log the step, and save where one is due."""
        standing, config = self.standing, self.parts.config
        if self.log is not None and standing.step % config.log_every == 0:
            with self.room_or_warning():
                self.log.step(step_row(standing.step, standing.epoch, lr, seconds, values))
        if config.save_every is not None and standing.step % config.save_every == 0:
            self.save()

    def end_epoch(self, metrics: EpochMetrics) -> None:
        """Keep the weights if they are to be kept, log the epoch, and save where one is due."""
        if self.standing.kept is metrics:
            if self.ema is not None:
                with self.ema.in_place():
                    self.best_weights.take()
            else:
                self.best_weights.take()
        if self.log is not None and self.folder is not None:
            with self.room_or_warning():
                self.log.epoch(metrics, self.standing.step)
                self._list_bad_files(self.folder.path)
        if self.parts.config.save_every is None or self.standing.epoch > self.parts.config.epochs:
            self.save()

    @property
    def newest(self) -> Path | None:
        """The checkpoint that a resumed run would go on from, as far as this one knows."""
        if self._saved is not None:
            return self._saved[1]
        return self.folder.resume if self.folder is not None else None

    def save(self) -> Path | None:
        """Write a checkpoint, unless none are wanted or there is no room; its folder. Every process calls it."""
        config, parts = self.parts.config, self.parts
        if self.folder is None or config.keep_checkpoints == 0:
            return None
        now = self.standing.epoch, self.standing.step
        if self._saved is not None and self._saved[0] == now:
            return self._saved[1]
        optimizer, optimizer_values = optimizer_state(parts.optimizer, parts.model)
        tensors = {"model": model_state(parts.model), "optimizer": optimizer}
        if self.standing.history:
            tensors["best"] = self.best_weights.state()
        if self.ema is not None:
            tensors["ema"] = self.ema.state()
        scaler = parts.stepper.scaler
        values = {
            "facts": self.facts,
            "config": to_dict(config),
            "standing": self.standing.to_dict(),
            "optimizer": optimizer_values,
            "scaler": scaler.state_dict() if scaler is not None else None,
            "bad_files": parts.bad_files.reasons,
            "rng": parts.parallel.gather(rng_state()),
        }
        with self.room_or_warning():
            path = save_checkpoint(
                self.folder.checkpoints, self.standing.step, tensors, values, keep=config.keep_checkpoints
            )
            self._saved = now, path
            return path
        return None

    def _load(self, tensors: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any]) -> None:
        parts, world = self.parts, self.parts.parallel.world
        check_facts(
            values["facts"], values["config"], len(values["rng"]), facts=self.facts, config=parts.config, world=world
        )
        load_model_state(parts.model, tensors["model"])
        # Rates and decay, and with them the groups, are those of this run's configuration.
        groups = [{**group, "settings": {}} for group in values["optimizer"]["groups"]]
        remembered = {**values["optimizer"], "groups": groups}
        load_optimizer_state(parts.optimizer, parts.model, tensors["optimizer"], remembered)
        if "best" in tensors:
            self.best_weights.load_state(tensors["best"])
        if self.ema is not None:
            if "ema" in tensors:
                self.ema.load_state(tensors["ema"])
            else:
                self.ema.take()
        if parts.stepper.scaler is not None and values["scaler"] is not None:
            parts.stepper.scaler.load_state_dict(values["scaler"])
        self.standing = Standing.from_dict(values["standing"])
        parts.refusals.skipped = self.standing.skipped_steps
        parts.bad_files.reasons.update(values["bad_files"])
        if len(values["rng"]) == world:
            set_rng_state(values["rng"][parts.parallel.rank])
        else:  # check_facts has said so
            seed_all(mix(parts.config.seed, self.standing.step, parts.parallel.rank))

    @contextmanager
    def room_or_warning(self) -> Iterator[None]:
        """What cannot be written ends the run, or with ``on_full_disk='continue'`` is said once."""
        try:
            yield
        except OutputError as error:
            if self.parts.config.on_full_disk == "stop":
                raise
            if not self._warned:
                warnings.warn(f"{error}. The run goes on and tries again later.", MoeZooWarning, stacklevel=4)
            self._warned = True

    def _list_bad_files(self, path: Path) -> None:
        if self.parts.bad_files.reasons:
            write_json(path / "bad_files.json", self.parts.bad_files.to_list())

    def finish(self, write: Callable[[Path], None]) -> None:
        """Let the main process write what only a finished run has."""
        if self.folder is not None and self.parts.parallel.is_main:
            write(self.folder.path)

    def close(self) -> None:
        """Close the logs."""
        if self.log is not None:
            self.log.close()
