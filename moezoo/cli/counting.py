"""A progress bar over images, on the terminal only, with log lines above it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def counted(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A function to tell the images that are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moezoo.cli.log import log_shown

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = Console(stderr=True)
    bar = Progress(*columns, console=shown, transient=True, disable=not shown.is_terminal)
    with bar, log_shown(bar.console):
        task = bar.add_task(title, total=total)
        yield lambda images: bar.advance(task, images)
