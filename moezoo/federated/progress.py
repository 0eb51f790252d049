"""Showing a simulation on the terminal while it goes on."""

from __future__ import annotations

from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from moezoo.federated.result import RoundResult


class Watcher(Protocol):
    """What :func:`~moezoo.federated.simulate` tells."""

    def begin(self, steps: int, done: int) -> None: ...
    def step(self, done: int, method: str, round: int, client: int) -> None: ...
    def round(self, method: str, result: RoundResult) -> None: ...
    def stop(self) -> None: ...


class Unwatched:
    """Shows nothing."""

    def begin(self, steps: int, done: int) -> None: ...
    def step(self, done: int, method: str, round: int, client: int) -> None: ...
    def round(self, method: str, result: RoundResult) -> None: ...
    def stop(self) -> None: ...


class FederatedBar:
    """One bar over all that is trained, with the time left; a line stays for every round. In a log file only those.

    Args:
        title: What is trained.
        console: Where to; by default standard output.
    """

    def __init__(self, title: str, console: Console | None = None):
        self.console = console or Console()
        self.title = title
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("[bold]{task.description}[/]"),
            console=self.console,
            speed_estimate_period=600.0,
        )

    def begin(self, steps: int, done: int) -> None:
        if done:
            self.console.print("going on from the newest round", style="dim", highlight=False)
        shown = self.console.is_terminal
        self._task = self._bar.add_task(self.title, total=max(steps, 1), completed=done, visible=shown)
        if shown:
            self._bar.start()

    def step(self, done: int, method: str, round: int, client: int) -> None:
        self._bar.update(self._task, completed=done, description=f"{method}, round {round}, client {client}")

    def round(self, method: str, result: RoundResult) -> None:
        low, high = (f([score.everywhere for score in result.clients]) for f in (min, max))
        line = f"{method} round {result.round}  val {result.everywhere:.1%} ({low:.1%} to {high:.1%})"
        if result.server is not None:
            line += f"  global {result.server:.1%}"
        line += f"  own {result.own:.1%}  loss {result.loss:.3f}  {result.seconds:.1f} s"
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)
        for client, reason in result.failed.items():
            self.console.print(f"  without client {client}: {reason}", markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        if self.console.is_terminal:
            self._bar.stop()
