"""Showing a run on the terminal while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)
from torch import nn

from moezoo.eval import LayerLoad
from moezoo.eval.compute import ComputeUse, short_flops
from moezoo.train.health import collapsed
from moezoo.train.result import EpochMetrics
from moezoo.train.tasks import AnySplits


class Observer(Protocol):
    """What :func:`moezoo.train.fit` tells while it trains."""

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None: ...
    def step(self, loss: float, routing: Sequence[LayerLoad] = (), use: ComputeUse | None = None) -> None: ...
    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None: ...
    def stop(self) -> None: ...


EpochHook = Callable[[nn.Module, AnySplits, EpochMetrics], None]
"""Is called by the main process after every epoch, with the model in the weights that were validated."""


class Silent:
    """Shows nothing."""

    def start(self, epochs: int, steps_per_epoch: int, done: int = 0) -> None: ...
    def step(self, loss: float, routing: Sequence[LayerLoad] = (), use: ComputeUse | None = None) -> None: ...
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

    def step(self, loss: float, routing: Sequence[LayerLoad] = (), use: ComputeUse | None = None) -> None:
        epoch = self._seen // self._steps + 1
        self._seen += 1
        if use is not None:
            self._health = _spent(use.routing_ratio, use.flops_per_image)
        elif routing:
            self._health = _health(routing)
        self._bar.update(self._task, advance=1, state=self._line(epoch, loss))

    def epoch(self, metrics: EpochMetrics, best: EpochMetrics) -> None:
        what = "val" if metrics.score_name == "accuracy" else metrics.score_name.replace("_", " ")
        what = f"test {what}" if metrics.judged_on == "test" else what
        self._score = f"  {what} [cyan]{metrics.score:5.1%}[/]  best [green]{best.score:5.1%}[/]"
        if metrics.flops_per_image is not None:
            self._health = _spent(metrics.routing_ratio, metrics.flops_per_image)
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


def _spent(ratio: float | None, flops: float) -> str:
    """The share of tokens that the big expert got, and what an image took."""
    share = f"big [cyan]{ratio:.0%}[/] " if ratio is not None else ""
    return f"  {share}{short_flops(flops)}"
