"""Showing a run on the terminal while it goes on."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from moezoo.train.result import EpochMetrics


class Observer(Protocol):
    """What :func:`moezoo.train.fit` tells while it trains."""

    def start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def step(self, loss: float) -> None: ...
    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, epochs: int, steps_per_epoch: int) -> None: ...
    def step(self, loss: float) -> None: ...
    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None: ...
    def stop(self) -> None: ...


class ProgressBar:
    """One bar for the whole run; in a log file instead ten lines over the run.

    Args:
        title: What is being trained.
        console: Where to; by default standard output.
    """

    def __init__(self, title: str, console: Console | None = None):
        self.title = title
        self.console = console or Console()
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=14),  # the line fits into 80 columns
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
        )

    def start(self, epochs: int, steps_per_epoch: int) -> None:
        self._epochs, self._steps, self._seen = epochs, steps_per_epoch, 0
        self._accuracy = ""
        total = epochs * steps_per_epoch
        self._task = self._bar.add_task(self.title, total=total, state="", visible=self.console.is_terminal)
        if self.console.is_terminal:
            self._bar.start()

    def step(self, loss: float) -> None:
        epoch = self._seen // self._steps + 1
        self._seen += 1
        self._bar.update(self._task, advance=1, state=self._line(epoch, loss))

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        self._accuracy = f"  val [cyan]{metrics.val_accuracy:6.2%}[/]  best [green]{best.val_accuracy:6.2%}[/]"
        line = self._line(metrics.epoch, metrics.loss)
        self._bar.update(self._task, state=line)
        every = max(self._epochs // 10, 1)
        if not self.console.is_terminal and (metrics.epoch % every == 0 or metrics.epoch == self._epochs):
            self.console.print(f"{self.title}  {line}")

    def _line(self, epoch: int, loss: float) -> str:
        return f"epoch {epoch:2d}/{self._epochs}  loss {loss:.3f}{self._accuracy}"

    def stop(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()
