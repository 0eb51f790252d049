"""Showing a run on the terminal while it goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)

from moezoo.eval import LayerLoad
from moezoo.train.health import collapsed
from moezoo.train.result import EpochMetrics


class Observer(Protocol):
    """What :func:`moezoo.train.fit` tells while it trains."""

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None: ...
    def step(self, loss: float, routing: Sequence[LayerLoad] = ()) -> None: ...
    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None: ...
    def stop(self) -> None: ...


class Silent:
    """Shows nothing."""

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None: ...
    def step(self, loss: float, routing: Sequence[LayerLoad] = ()) -> None: ...
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
            BarColumn(bar_width=6),  # the line fits into 80 columns
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=self.console,
        )

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        self._epochs, self._steps, self._seen = epochs, steps_per_epoch, done
        self._score = self._health = ""
        total = epochs * steps_per_epoch
        visible = self.console.is_terminal
        self._task = self._bar.add_task(self.title, total=total, completed=done, state="", visible=visible)
        if self.console.is_terminal:
            self._bar.start()

    def step(self, loss: float, routing: Sequence[LayerLoad] = ()) -> None:
        epoch = self._seen // self._steps + 1
        self._seen += 1
        if routing:
            self._health = _health(routing)
        self._bar.update(self._task, advance=1, state=self._line(epoch, loss))

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        what = "val" if metrics.score_name == "accuracy" else metrics.score_name.replace("_", " ")
        self._score = f"  {what} [cyan]{metrics.score:5.1%}[/]  best [green]{best.score:5.1%}[/]"
        line = self._line(metrics.epoch, metrics.loss)
        self._bar.update(self._task, state=line)
        every = max(self._epochs // 10, 1)
        if not self.console.is_terminal and (metrics.epoch % every == 0 or metrics.epoch == self._epochs):
            self.console.print(f"{self.title}  {line}", soft_wrap=True)

    def _line(self, epoch: int, loss: float) -> str:
        return f"epoch {epoch:2d}/{self._epochs}  loss {loss:.3f}{self._score}{self._health}"

    def stop(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()


def _health(routing: Sequence[LayerLoad]) -> str:
    """How even the load of the worst layer is: 1 is even, 0 one expert for everything."""
    worst = min(load.load_entropy for load in routing)
    return f"  load [{'red' if any(map(collapsed, routing)) else 'green'}]{worst:.2f}[/]"
