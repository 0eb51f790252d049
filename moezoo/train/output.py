"""The files a run writes beside its checkpoints and its model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

from moezoo.errors import MissingPackageError, OutputError
from moezoo.hub.files import check_writable as probe_folder
from moezoo.hub.files import output_errors, write_text
from moezoo.train.health import load_row
from moezoo.train.result import EpochMetrics
from moezoo.train.step_values import StepValues

__all__ = ["RunLog", "probe_folder", "read_written", "write_json", "write_text"]


def read_written(path: Path, writer: str, advice: str = "") -> dict[str, Any]:
    """The mapping in a JSON file that ``writer`` wrote.

    Raises:
        OutputError: It cannot be read, or is something else; ``advice`` stands behind the reason.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{str(path)!r} cannot be read: {error}.{advice}") from None
    if not isinstance(found, dict):
        raise OutputError(f"{str(path)!r} is not what {writer} writes.{advice}")
    return found


def write_json(path: Path, data: Any) -> None:
    """``data`` as indented JSON; NaN and infinity are refused, since other readers would not take them."""
    write_text(path, json.dumps(data, indent=2, allow_nan=False) + "\n")


def step_row(step: int, epoch: int, lr: float, seconds: float, values: StepValues) -> dict[str, Any]:
    """One line of ``steps.jsonl``."""
    row = {
        "step": step,
        "epoch": epoch,
        "lr": lr,
        "loss": values.loss,
        "aux_loss": values.aux_loss,
        "grad_norm": values.grad_norm,
        "updated": values.updated,
        "images": values.images,
        "seconds": seconds,
        "routing": [load_row(load) for load in values.routing],
        **_used(values),
    }
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()}


def _used(values: StepValues) -> dict[str, Any]:
    used = dataclasses.asdict(values.use) if values.use is not None else {}
    return {key: value for key, value in used.items() if value is not None}


class RunLog:
    """``metrics.jsonl``, ``steps.jsonl`` and, if asked for, TensorBoard's event files.

    Args:
        folder: The run's.
        history: The epochs of the run that is resumed; ``metrics.jsonl`` begins with them.
        step: The step it had reached; later lines of ``steps.jsonl`` are cut off.
        tensorboard: Write event files too.
    """

    def __init__(self, folder: Path, history: Iterable[EpochMetrics], step: int, *, tensorboard: bool = False):
        self._events = _event_writer(folder / "tensorboard", step) if tensorboard else None
        self._epochs, self._steps = folder / "metrics.jsonl", folder / "steps.jsonl"
        write_text(self._epochs, "".join(_line(metrics.to_dict()) for metrics in history))
        write_text(self._steps, "".join(_lines_up_to(self._steps, step)))
        with output_errors(self._steps):
            self._file: TextIO = self._steps.open("a", encoding="utf-8", newline="\n")

    def step(self, row: Mapping[str, Any]) -> None:
        """On disk when it returns."""
        with output_errors(self._steps):
            self._file.write(_line(row))
            self._file.flush()
        if self._events is not None:
            for key in ("loss", "aux_loss", "grad_norm", "lr"):
                if row[key] is not None:
                    self._events.add_scalar(f"train/{key}", row[key], row["step"])
            for key in ("routing_ratio", "flops_per_image"):
                if key in row:
                    self._events.add_scalar(f"routing/{key}", row[key], row["step"])
            for load in row["routing"]:
                for key in ("load_entropy", "max_share", "min_share", "drop_rate", "max_violation"):
                    self._events.add_scalar(f"routing/{load['layer']}/{key}", load[key], row["step"])
                self._events.add_scalar(f"routing/{load['layer']}/dead", len(load["dead_experts"]), row["step"])

    def epoch(self, metrics: EpochMetrics, step: int) -> None:
        """On disk when it returns."""
        with output_errors(self._epochs), self._epochs.open("a", encoding="utf-8", newline="\n") as file:
            file.write(_line(metrics.to_dict()))
        if self._events is not None:
            if math.isfinite(metrics.val_loss):
                self._events.add_scalar("val/loss", metrics.val_loss, step)
            self._events.add_scalar(f"{metrics.judged_on}/{metrics.score_name}", metrics.score, step)
            for key in ("routing_ratio", "flops_per_image"):
                if (used := getattr(metrics, f"val_{key}")) is not None:
                    self._events.add_scalar(f"val/{key}", used, step)
            self._events.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError):  # a line that found no room was complained about already
            self._file.close()
        if self._events is not None:
            self._events.close()


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"


def _lines_up_to(path: Path, step: int) -> list[str]:
    """The lines of earlier steps; a last one that was cut in two is dropped."""
    kept: list[str] = []
    if step and path.is_file():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["step"] <= step:
                kept.append(line + "\n")
    return kept


def _event_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise MissingPackageError(
            'tensorboard=True needs the package tensorboard: pip install "moezoo[tensorboard]"'
        ) from None
    return SummaryWriter(str(folder), purge_step=step + 1)
