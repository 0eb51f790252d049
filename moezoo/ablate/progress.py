"""Showing an ablation on the terminal while it goes on."""

from __future__ import annotations

from typing import Any, Protocol

from rich.console import Console

from moezoo.ablate.measured import Measured
from moezoo.train.progress import Observer, Silent
from moezoo.train.result import EpochMetrics
from moezoo.train.work_bar import WorkBar


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


class AblationBar(WorkBar):
    """One bar over all runs, with the time left; a line stays for every result. In a log file only those.

    Args:
        title: What is varied.
        console: Where to; by default standard output.
    """

    def __init__(self, title: str, console: Console | None = None):
        super().__init__(title, console)
        self.done = 0.0

    def begin(self, work: float, finished: int) -> None:
        self.show(work, note=f"{finished} of the runs are finished already" if finished else "")

    def run(self, title: str) -> Observer:
        self.update(description=title, state="")
        return _Run(self)

    def advance(self, done: float, state: str) -> None:
        """So much of one run is done."""
        self.update(completed=self.done + done, state=state)

    def measured(self, title: str, measured: Measured, work: float) -> None:
        self.done += work
        self.update(completed=self.done)
        figures = [_figure("val", measured.val), _figure("test", measured.test)]
        if measured.routing_ratio is not None:
            figures.append(_figure("routed", measured.routing_ratio))
        self.line(f"{title}  {'  '.join(figures)}  {measured.seconds:.1f} s")


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
