"""What the scans over timm's architectures share: their names and families, and answers kept in a file."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer


def architectures(patterns: list[str]) -> list[str]:
    """Those of timm's architectures that match an fnmatch pattern."""
    import timm

    chosen = [name for name in timm.list_models() if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not chosen:
        raise typer.BadParameter(f"no architecture of timm matches {patterns}")
    return chosen


def family(arch: str) -> str:
    """The module of timm that defines an architecture."""
    import timm

    return timm.model_entrypoint(arch).__module__.split(".")[-1]


def read_log(log: Path) -> Iterator[dict[str, Any]]:
    """The answers of earlier runs."""
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else ():
        try:
            yield json.loads(line)
        except ValueError:  # the last line of a run that was killed
            continue


def cell(text: str) -> str:
    """``text`` as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")
