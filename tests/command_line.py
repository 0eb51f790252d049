"""``moezoo …`` as typed, in this process: its imports are most of what a process of its own takes."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch

from moezoo.cli import main


@dataclass
class Ended:
    """What ``subprocess.run`` would tell of it."""

    returncode: int
    stdout: str
    stderr: str


def process(*args: object) -> subprocess.CompletedProcess[str]:
    """The same in a process of its own."""
    line = [sys.executable, "-m", "moezoo", *map(str, args)]
    result = subprocess.run(line, capture_output=True, text=True, timeout=300, env={**os.environ, "COLUMNS": "200"})
    assert "Traceback" not in result.stderr + result.stdout, result.stderr
    return result


def command(*args: object) -> Ended:
    """Run ``moezoo`` with ``args`` in the current folder; what would be a traceback is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with _as_if_ended(["moezoo", *map(str, args)]), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            code = 0 if end.code is None else int(end.code)
    return Ended(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _as_if_ended(argv: list[str]) -> Iterator[None]:
    """What a process takes with it when it ends is put back, and handlers of signals have to be already."""
    hook, threads = sys.excepthook, torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with (
        mock.patch.object(sys, "argv", argv),
        mock.patch.dict(os.environ, COLUMNS="200"),
        warnings.catch_warnings(),
        torch.random.fork_rng(devices=[]),
    ):
        try:
            yield
        finally:
            sys.excepthook = hook  # typer's own prints its errors in colour
            torch.set_num_threads(threads)
    assert handlers == {number: signal.getsignal(number) for number in handlers}
