"""The folder of a run: who may write into it, and what is there to go on with."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from moezoo.errors import CheckpointError, ConfigError, OutputError
from moezoo.hub.files import check_writable, output_errors
from moezoo.hub.schema import INDEX_NAME, SHARD, WEIGHTS_NAME
from moezoo.train.checkpoint import clear_checkpoints, newest_checkpoint, tidy_checkpoints
from moezoo.train.checkpoint.ranks import on_main
from moezoo.train.lock import own_run_folder

logger = logging.getLogger(__name__)

RUN_FILES = ("metrics.jsonl", "steps.jsonl", "metrics.json", "bad_files.json")
"""What a run writes beside its checkpoints and its model."""


@dataclass(frozen=True)
class RunFolder:
    """A folder this run owns."""

    path: Path
    resume: Path | None = None
    """The checkpoint to go on from."""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"


@contextmanager
def open_run(
    out: str | Path | None, *, resume: str | Path | None = None, overwrite: bool = False
) -> Iterator[RunFolder | None]:
    """Own ``out`` while open, cleared of what it may not hold. Every process calls it.

    Args:
        out: The folder; ``None`` for a run that writes nothing.
        resume: ``"auto"``: the newest whole checkpoint in ``out``, a fresh run if there is none. Else a checkpoint's
            folder, or that of a run, whose newest is taken.
        overwrite: Begin afresh where a run is already; its checkpoints and logs are removed.

    Raises:
        OutputError: ``out`` cannot be written, or holds a run and neither ``resume`` nor ``overwrite`` was given.
        RunLockedError: Another process owns it.
        CheckpointError: There is no checkpoint at ``resume``, or none that is whole.
        ConfigError: ``resume`` or ``overwrite`` without ``out``, or both of them.
    """
    if resume is not None and overwrite:
        raise ConfigError(f"resume={str(resume)!r} goes on with a run and overwrite=True drops it: give one of them.")
    if out is None:
        if resume is not None or overwrite:
            raise ConfigError("resume and overwrite need out, the folder of the run")
        yield None
        return
    path = Path(out)
    on_main(lambda: check_writable(path) and None)
    with own_run_folder(path):
        checkpoint = _find(path, resume) if resume is not None else None
        inside = checkpoint is not None and path.resolve() in checkpoint.resolve().parents
        if not (overwrite or inside or resume == "auto"):
            on_main(lambda: _refuse_used(path))
        if overwrite:
            on_main(lambda: _clear(path))
            clear_checkpoints(path / "checkpoints")
        tidy_checkpoints(path / "checkpoints")
        if checkpoint is not None:
            logger.info("going on from %s", checkpoint)
        elif resume is not None:
            logger.info("no checkpoint in %s: the run begins afresh", path)
        yield RunFolder(path, checkpoint)


def _find(path: Path, resume: str | Path) -> Path | None:
    if resume == "auto":
        return newest_checkpoint(path / "checkpoints")
    given = Path(resume)
    if given.name.startswith("step-"):
        return given
    found = newest_checkpoint(given if given.name == "checkpoints" else given / "checkpoints")
    if found is None:
        raise CheckpointError(f"resume={str(given)!r} is neither a checkpoint nor a run's folder with one")
    return found


def _refuse_used(path: Path) -> None:
    found = [name for name in (*RUN_FILES, WEIGHTS_NAME, "checkpoints/") if (path / name).exists()]
    if found:
        raise OutputError(
            f"{str(path)!r} holds a run already ({', '.join(found)}). Go on with it by --resume auto (resume='auto'), "
            "drop it by --overwrite (overwrite=True), or take another folder."
        )


def _clear(path: Path) -> None:
    """Drop the logs, and the weights too: beside another run's recipe nobody could tell whose they are."""
    weights = [file.name for file in path.iterdir() if SHARD.fullmatch(file.name)]
    with output_errors(path):
        for name in (*RUN_FILES, WEIGHTS_NAME, INDEX_NAME, *weights):
            (path / name).unlink(missing_ok=True)
        shutil.rmtree(path / "tensorboard", ignore_errors=True)
        for picture in (path / "visualizations").glob("attention_epoch_*.png"):
            picture.unlink()
