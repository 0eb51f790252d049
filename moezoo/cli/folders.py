"""Where runs lie."""

from __future__ import annotations

from pathlib import Path

RUNS = Path("runs")


def run_folder(name: str, runs: Path = RUNS) -> Path:
    """The folder that ``moezoo train NAME`` takes by itself: ``runs/entity_moe-digits``."""
    return runs / name.rpartition(":")[2].strip("/").replace("/", "-")
