"""Measurements in order of importance, as many as fit into a time."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Item = TypeVar("Item")


def within(budget: float | None, items: Sequence[Item], console: Console) -> Iterator[Item]:
    """``items`` one after the other behind a progress bar, the first one in any case, until one would start later than
    ``budget`` seconds from now; then the console is told how many are left out. ``None`` takes all."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    began = time.monotonic()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=len(items))
        for done, item in enumerate(items):
            spent = time.monotonic() - began
            if done and budget is not None and spent > budget:
                console.print(f"{spent:.0f} s of {budget:.0f} s are spent: {len(items) - done} are left out")
                return
            bar.update(task, completed=done, description=str(item))
            yield item
        bar.update(task, completed=len(items))
