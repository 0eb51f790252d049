"""Progress bars on the terminal only, so that what goes into a file stays clean."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


@contextmanager
def counted(title: str, total: int | None, *, logs: bool = True) -> Iterator[Callable[[int], None]]:
    """A function to tell the images that are done. With ``logs``, log lines stand above the bar."""
    from moezoo.cli.log import log_shown

    bar = _bar()
    with bar, log_shown(bar.console) if logs else nullcontext():
        task = bar.add_task(title, total=total)
        yield lambda images: bar.advance(task, images)


@contextmanager
def stepped(title: str, *, unequal: bool = False) -> Iterator[Callable[[int, int | None, str], None]]:
    """A function to tell how many steps are done, of how many (``None``: not known), and what goes on.

    Args:
        title: What stands there before the first step.
        unequal: Steps last so differently that the time gone by is shown, and none is promised.
    """
    with _bar(elapsed=unequal) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


def _bar(*, elapsed: bool = False) -> Progress:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    time = TimeElapsedColumn() if elapsed else TimeRemainingColumn()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), time)
    shown = Console(stderr=True)
    return Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)
