"""Showing a search on the terminal while it goes on."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from moezoo.search.workers import EndWithParent
from moezoo.train.progress import Observer, Silent
from moezoo.train.result import EpochMetrics


class Watcher(Protocol):
    """What a search tells."""

    def begin(self, total: int, done: int) -> None: ...
    def design(self, title: str) -> Observer: ...
    def finished(self, title: str, score: float | None) -> None: ...
    def stop(self) -> None: ...


class Unwatched:
    """Shows nothing."""

    def begin(self, total: int, done: int) -> None: ...
    def design(self, title: str) -> Observer:
        return Silent()

    def finished(self, title: str, score: float | None) -> None: ...
    def stop(self) -> None: ...


class SearchBar:
    """One bar over all designs, with the best score and the time left; in a log file a line per design.

    Args:
        title: What is searched.
        console: Where to; by default standard output.
    """

    def __init__(self, title: str, console: Console | None = None):
        self.title = title
        self.console = console or Console()
        self.best: float | None = None
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("[bold]{task.description}[/]"),
            BarColumn(bar_width=14),
            MofNCompleteColumn(),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[state]}"),
            console=self.console,
            speed_estimate_period=600.0,  # designs differ in what they cost
        )

    def begin(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        if done:
            self.console.print(f"{done} of the designs are finished already", style="dim", highlight=False)
        visible = self.console.is_terminal
        self._task = self._bar.add_task(self.title, total=total, completed=done, state="", visible=visible)
        if visible:
            self._bar.start()

    def design(self, title: str) -> Observer:
        return _Epochs(self)

    def finished(self, title: str, score: float | None) -> None:
        self.done += 1
        if score is not None:
            self.best = score if self.best is None else max(self.best, score)
        told = "stopped early" if score is None else f"val {score:.1%}"
        if self.console.is_terminal:
            self._bar.update(self._task, completed=self.done, state=self.state(""))
        else:
            line = f"{self.done}/{self.total}  {told}{self.state('')}  {title}"
            self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def state(self, more: str) -> str:
        """The best so far, and ``more``."""
        return f"{more}  best {self.best:.1%}" if self.best is not None else more

    def show(self, more: str) -> None:
        """Say ``more`` behind the bar."""
        self._bar.update(self._task, state=self.state(more))

    def stop(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()


class _Epochs(EndWithParent):
    """One design's epochs, told behind the bar."""

    def __init__(self, bar: SearchBar):
        self.bar, self.epochs = bar, 1

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        self.epochs = epochs

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        self.bar.show(f"epoch {metrics.epoch}/{self.epochs} {metrics.score:.1%}")

    def step(self, *args: Any, **more: Any) -> None:
        super().step(*args, **more)
