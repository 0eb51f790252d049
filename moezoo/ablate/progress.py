"""Showing an ablation on the terminal while it goes on."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from moezoo.ablate.measured import Measured
from moezoo.train.progress import Observer, Silent
from moezoo.train.result import EpochMetrics


class Watcher(Protocol):
    """What :func:`~moezoo.ablate.ablate` tells."""

    def begin(self, work: float, finished: int) -> None: ...
    def run(self, title: str) -> Observer: ...
    def measured(self, title: str, measured: Measured, work: float) -> None: ...
    def stop(self) -> None: ...


class Unwatched:
    """Shows nothing."""

    def begin(self, work: float, finished: int) -> None: ...
    def run(self, title: str) -> Observer:
        return Silent()

    def measured(self, title: str, measured: Measured, work: float) -> None: ...
    def stop(self) -> None: ...


class AblationBar:
    """One bar over all runs, with the time left; a line stays for every result. In a log file only those.

    Args:
        title: What is varied.
        console: Where to; by default standard output.
    """

    def __init__(self, title: str, console: Console | None = None):
        self.title = title
        self.console = console or Console()
        self.done = 0.0
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("[bold]{task.description}[/]{task.fields[state]}"),
            console=self.console,
            speed_estimate_period=600.0,  # runs differ in what a step costs
        )

    def begin(self, work: float, finished: int) -> None:
        if finished:
            self.console.print(f"{finished} of the runs are finished already", style="dim", highlight=False)
        self._task = self._bar.add_task(self.title, total=max(work, 1e-9), state="", visible=self.console.is_terminal)
        if self.console.is_terminal:
            self._bar.start()

    def run(self, title: str) -> Observer:
        self._bar.update(self._task, description=title, state="")
        return _Run(self)

    def advance(self, done: float, state: str) -> None:
        """So much of one run is done."""
        self._bar.update(self._task, completed=self.done + done, state=state)

    def measured(self, title: str, measured: Measured, work: float) -> None:
        self.done += work
        self._bar.update(self._task, completed=self.done)
        figures = [_figure("val", measured.val), _figure("test", measured.test)]
        if measured.routing_ratio is not None:
            figures.append(_figure("routed", measured.routing_ratio))
        line = f"{title}  {'  '.join(figures)}  {measured.seconds:.1f} s"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()


class _Run(Silent):
    """A run's share of the bar."""

    def __init__(self, bar: AblationBar):
        self.bar, self.steps, self.seen, self.state = bar, 1, 0, ""

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None:
        self.steps, self.seen = max(epochs * steps_per_epoch, 1), done

    def step(self, *args: Any, **more: Any) -> None:
        self.seen += 1
        self.bar.advance(min(self.seen / self.steps, 1.0), self.state)

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        self.state = f"  epoch {metrics.epoch}  best {best.score:.1%}"


def _figure(name: str, value: float | None) -> str:
    return f"{name} {'-' if value is None else f'{value:.1%}'}"
