"""Measure models, by default three small ones, and write the table to ``models.md`` beside this script.

    python benchmarks/models.py                                  # a few minutes on two cores
    python benchmarks/models.py 'entity_moe/vit_*' --batch-size 1 --batch-size 8

All options are those of ``moezoo bench``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from moezoo.cli.bench import bench

DEFAULT = [
    "entity_moe/digits",
    "entity_moe/vit_tiny.last",
    "entity_moe/resnet18",
    "--batch-size",
    "1",
    "--batch-size",
    "8",
    "--out",
    str(Path(__file__).with_name("models.md")),
]

if __name__ == "__main__":
    sys.argv[1:] = sys.argv[1:] or DEFAULT
    typer.run(bench)
