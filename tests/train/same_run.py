"""Two run folders hold the same run, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a log without what the clock says."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


def assert_same_run(plain: Path, other: Path) -> None:
    """Final weights and logs are equal, and ``other`` holds nothing that a kill has left."""
    one, two = (load_file(folder / "final.safetensors") for folder in (plain, other))
    assert set(one) == set(two)
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name
    for log in ("steps.jsonl", "metrics.jsonl"):
        assert rows(plain / log) == rows(other / log), log
    assert not list((other / "checkpoints").glob(".*"))
    assert not (other / "run.lock").exists()
