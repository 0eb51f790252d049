"""One bar over work of many trainings."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn, TimeRemainingColumn

PERIOD = 600.0
"""Seconds over which the speed is estimated: trainings differ in what a step costs."""


class WorkBar:
    """Base of bars with the time left, drawn on a terminal; what :meth:`line` writes stays, in a log file too.

    Args:
        title: What is done.
        console: Where to; by default standard output.
        middle: Columns between the spinner and the time left.
        told: What is written behind it.
    """

    def __init__(
        self,
        title: str,
        console: Console | None = None,
        *,
        middle: tuple[ProgressColumn, ...] | None = None,
        told: str = "[bold]{task.description}[/]{task.fields[state]}",
    ):
        self.title = title
        self.console = console or Console()
        self._bar = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            *(middle or (BarColumn(bar_width=12), TextColumn("{task.percentage:>3.0f}%"))),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn(told),
            console=self.console,
            speed_estimate_period=PERIOD,
        )

    def show(self, total: float, done: int = 0, note: str = "") -> None:
        """Begin; ``note`` says what was done already."""
        if note:
            self.console.print(note, style="dim", highlight=False)
        shown = self.console.is_terminal
        self._task = self._bar.add_task(self.title, total=max(total, 1e-9), completed=done, state="", visible=shown)
        if shown:
            self._bar.start()

    def update(self, **changed: Any) -> None:
        """``completed=``, ``description=`` and ``state=`` of the bar."""
        self._bar.update(self._task, **changed)

    def line(self, text: str) -> None:
        """Write a line that stays."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        """Take the bar away."""
        if self.console.is_terminal:
            self._bar.stop()
