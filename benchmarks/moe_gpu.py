"""One MoE layer on a GPU at the sizes of training: vision transformers at batch 256, beside its dense floor and peers.

    python benchmarks/moe_gpu.py                                  # a few minutes
    python benchmarks/moe_gpu.py --budget 60 --out /tmp/gpu       # the most important minute
    python benchmarks/moe_gpu.py --device cpu --works tiny_e4k2 --rounds 2 --out /tmp/gpu   # to try the script

Everything is as in ``moe_layer.py``, whose cells these are: the most important first, each stored when it is done.
The device's cache is cold when the clock of a call starts, and at training sizes the device still at work, as behind
other layers; a small batch, which waits for launches, starts on an idle device.
"""

from __future__ import annotations

import json
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from budgeted import within
from card_tables.gpu import layer_table
from cards import RESULTS, store
from moe_layer import forget, measure_cell, our_paths
from moe_workloads import AUTOCAST, Problem, parse_workload
from rich.console import Console

FIRST = "vitb256_e8k2,vits256_e8k2,vitb256_e8k1"
"""Measured in both half-precision ways, and the first two of them compiled."""
MORE = (
    "vits256_e64k2,vits256_e32k2,vitb256_e8k2_skew,vits256_e8k1,vitb256_e64k2,vits256_e64k2_skew,vitl64_e8k2,"
    "vitb_e8k2,small_e8k2"
)
"""Measured as they are used: inference in bfloat16, training under autocast."""
PEERS = ["transformers_grouped", "transformers_eager", "naive_mask"]
MANY = 10_000
"""Tokens from which on a layer's products take longer than its launches."""
FOR_OTHERS = ("packed", "native", "static")
"""Paths for CPUs and for ONNX."""
USUAL = (("bfloat16", "infer"), (AUTOCAST, "train"))


@dataclass(frozen=True)
class Cell:
    """One measurement."""

    work: str
    dtype: str
    mode: str
    compiled: bool = False

    def __str__(self) -> str:
        return f"{self.work} {self.dtype} {self.mode}{' compiled' if self.compiled else ''}"


def main(
    device: Annotated[str, typer.Option(help="where")] = "cuda",
    works: Annotated[
        str, typer.Option(help="the important workloads, comma-separated, the first two compiled")
    ] = FIRST,
    more: Annotated[str, typer.Option(help="further ones; empty for none")] = MORE,
    rounds: Annotated[int, typer.Option(min=1, help="timed calls of each")] = 11,
    budget: Annotated[float | None, typer.Option(help="seconds after which no further cell is begun")] = None,
    seed: Annotated[int, typer.Option(help="of weights, tokens and order")] = 0,
    out: Annotated[Path, typer.Option(help="folder of moe_gpu.json")] = RESULTS,
) -> None:
    """Measure, store after each cell, and print the table."""
    where, console = torch.device(device), Console(stderr=True, width=120)
    cells = ordered(works.split(","), [work for work in more.split(",") if work])
    command = " ".join(["python benchmarks/moe_gpu.py", *options(sys.argv[1:])])
    found: list[dict[str, Any]] = []
    path = out / "moe_gpu.json"
    for cell in within(budget, cells, console):
        try:
            found.append(measured(cell, where, rounds, seed))
        except torch.OutOfMemoryError as error:
            console.print(f"{cell}: {error}")
        path = store("moe_gpu", "layer_gpu", folder=out, device=where, command=command, rounds=rounds, cells=found)
        forget()
    print(layer_table(json.loads(path.read_text(encoding="utf-8"))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def ordered(first: list[str], more: list[str]) -> list[Cell]:
    """All cells, the most important first."""
    compiled = [Cell(work, *how, compiled=True) for work in first[:2] for how in USUAL]
    half = [
        Cell(work, dtype, mode) for work in first for dtype in ("bfloat16", AUTOCAST) for mode in ("infer", "train")
    ]
    both = {(cell.work, cell.dtype, cell.mode) for cell in compiled}
    cells = [cell for cell in half if (cell.work, cell.dtype, cell.mode) not in both] + compiled
    cells += [Cell(work, *how) for work in more for how in USUAL]
    return cells + [Cell(work, "float32", mode) for work in first[:2] for mode in ("infer", "train")]


def measured(cell: Cell, device: torch.device, rounds: int, seed: int) -> dict[str, Any]:
    """What :func:`measure_cell` finds, with times to four digits."""
    problem = Problem(parse_workload(cell.work), cell.dtype, device, seed)
    ours = [path for path in our_paths() if path not in FOR_OTHERS]
    few = max(1, rounds // 3) if cell.dtype == "float32" else rounds
    busy = problem.workload.tokens >= MANY
    found = measure_cell(problem, cell.mode, ours, PEERS, compiled=cell.compiled, busy=busy, rounds=few, seed=seed)
    found["samples"] = {
        name: [None if value is None else float(f"{value:.4g}") for value in values]
        for name, values in found["samples"].items()
    }
    return found


def options(given: list[str]) -> list[str]:
    """What was typed but for the folder, which says nothing about the figures."""
    kept = [shlex.quote(each) for each in given]
    while "--out" in kept:
        at = kept.index("--out")
        del kept[at : at + 2]
    return kept


if __name__ == "__main__":
    typer.run(main)
