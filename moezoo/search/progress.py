"""Showing a search on the terminal while it goes on."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn

from moezoo.search.workers import EndWithParent
from moezoo.train.progress import Observer, Silent
from moezoo.train.result import EpochMetrics
from moezoo.train.work_bar import WorkBar


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


class SearchBar(WorkBar):
    """One bar over all designs, with the best score and the time left; in a log file a line per design.

    Args:
        title: What is searched.
        console: Where to; by default standard output.
    """

    def __init__(self, title: str, console: Console | None = None):
        middle = (TextColumn("[bold]{task.description}[/]"), BarColumn(bar_width=14), MofNCompleteColumn())
        super().__init__(title, console, middle=middle, told="{task.fields[state]}")
        self.best: float | None = None

    def begin(self, total: int, done: int) -> None:
        self.total, self.done = total, done
        self.show(total, done, note=f"{done} of the designs are finished already" if done else "")

    def design(self, title: str) -> Observer:
        return _Epochs(self)

    def finished(self, title: str, score: float | None) -> None:
        self.done += 1
        if score is not None:
            self.best = score if self.best is None else max(self.best, score)
        told = "stopped early" if score is None else f"val {score:.1%}"
        if self.console.is_terminal:
            self.update(completed=self.done, state=self.state(""))
        else:
            self.line(f"{self.done}/{self.total}  {told}{self.state('')}  {title}")

    def state(self, more: str) -> str:
        """The best so far, and ``more``."""
        return f"{more}  best {self.best:.1%}" if self.best is not None else more

    def say(self, more: str) -> None:
        """Write ``more`` behind the bar."""
        self.update(state=self.state(more))


class _Epochs(EndWithParent):
    """One design's epochs, told behind the bar."""

    def __init__(self, bar: SearchBar):
        self.bar, self.epochs = bar, 1

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        self.epochs = epochs

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        self.bar.say(f"epoch {metrics.epoch}/{self.epochs} {metrics.score:.1%}")

    def step(self, *args: Any, **more: Any) -> None:
        super().step(*args, **more)
