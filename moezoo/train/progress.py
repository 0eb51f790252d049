"""Showing a run on the terminal while it goes on."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
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
            BarColumn(bar_width=28),
            MofNCompleteColumn(),
            TextColumn("epochs"),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
        )

    def start(self, epochs: int, steps_per_epoch: int) -> None:
        self._epochs, self._steps, self._seen = epochs, steps_per_epoch, 0
        self._state = ""
        self._task = self._bar.add_task(self.title, total=epochs, state="", visible=self.console.is_terminal)
        if self.console.is_terminal:
            self._bar.start()

    def step(self, loss: float) -> None:
        self._seen += 1
        # Whole epochs only: the bar's "3/25" is the epoch being trained.
        self._bar.update(self._task, state=f"loss {loss:.3f}  {self._state}")

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        self._state = f"val [cyan]{metrics.val_accuracy:7.2%}[/]  best [green]{best.val_accuracy:7.2%}[/]"
        self._bar.update(self._task, advance=1, state=f"loss {metrics.loss:.3f}  {self._state}")
        every = max(self._epochs // 10, 1)
        if not self.console.is_terminal and (metrics.epoch % every == 0 or metrics.epoch == self._epochs):
            count = f"epoch {metrics.epoch:3d}/{self._epochs}"
            self.console.print(f"{self.title}  {count}  loss {metrics.loss:.3f}  {self._state}")

    def stop(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()
