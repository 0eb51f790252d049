"""Scripts of ``benchmarks/`` as typed, in this process: their imports are most of what a process of their own takes."""

from __future__ import annotations

import importlib
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import typer
from typer.testing import CliRunner

SCRIPTS = Path(__file__).parent.parent / "benchmarks"


@contextmanager
def script(name):
    """The module, imported afresh: its neighbours are found as if it were run."""
    with mock.patch.object(sys, "path", [str(SCRIPTS), *sys.path]):
        kept = sys.modules.pop(name, None)
        try:
            yield importlib.import_module(name)
        finally:
            sys.modules.pop(name, None)
            if kept is not None:
                sys.modules[name] = kept


def run_script(name, *args, **changed):
    """What ``python benchmarks/<name>.py ARGS`` prints; ``changed`` are attributes of the script that are replaced."""
    with script(name) as module, mock.patch.dict(vars(module), changed):
        app = typer.Typer()
        app.command()(module.main)
        with mock.patch.object(sys, "argv", [f"benchmarks/{name}.py", *map(str, args)]):
            result = CliRunner().invoke(app, list(map(str, args)), env={"COLUMNS": "200"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout
