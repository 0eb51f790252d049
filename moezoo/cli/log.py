"""Log lines and warnings as lines of a command's output."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moezoo.errors import MoeZooWarning

if TYPE_CHECKING:
    from rich.console import Console


class _Lines(logging.Handler):
    """One line each, however long: a log file can then be searched for a path."""

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        self.console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def log_shown(console: Console) -> Iterator[None]:
    """Inside, what moezoo logs and warns of (a resume, a file left out, a collapse) is shown."""
    logger, handler = logging.getLogger("moezoo"), _Lines(console)
    level = logger.level

    def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, MoeZooWarning):
            logger.warning("%s", message)
        else:
            others(message, category, *place, **more)

    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with warnings.catch_warnings():
            others, warnings.showwarning = warnings.showwarning, show
            yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
