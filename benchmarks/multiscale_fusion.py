"""Time of the fusion of scales by experts beside fusions without a gate that cost as many FLOPs.

    python benchmarks/multiscale_fusion.py               # about a minute on two cores

Forward passes in evaluation without gradients, features of width 512, three scales, hidden width 1024. A figure is the
median over interleaved rounds of a time by the plain MLP's (or the attention's) time in the same round, with the 90 %
interval of that median. ``top 1`` and ``threshold`` are the same mixture with experts skipped, and their share of its
FLOPs, counted while they ran. Few samples wait for weights, of which attention, whose weights every scale uses, has a
third at equal FLOPs: beside it stand attention of equal parameters, and a bare read of the mixture's weights.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
import typer
from cards import RESULTS, store
from moe_timing import Run, paired, timed
from rich.console import Console
from torch import Tensor, nn

import moezoo
from moezoo.models.multiscale_moe.fusion import build_fusion

DIM, SCALES, HIDDEN = 512, (4, 8, 16), 1024


def main(
    batches: Annotated[str, typer.Option(help="comma-separated")] = "1,2,4,8,16,32,64,128,256",
    rounds: Annotated[int, typer.Option(help="of each batch")] = 60,
    threads: Annotated[int, typer.Option()] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    out: Annotated[Path, typer.Option(help="folder of multiscale_fusion.json")] = RESULTS,
) -> None:
    """Time the fusions."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    where = torch.device(device)
    fusions = {name: fusion.to(where) for name, fusion in built().items()}
    console, rows = Console(), {}
    for batch in (int(size) for size in batches.split(",")):
        features = [torch.randn(batch, DIM, device=where) for _ in SCALES]
        rows[str(batch)] = measured(fusions, features, console, rounds)
        console.print(batch, json.dumps(rows[str(batch)]))
    path = store(
        "multiscale_fusion_gpu" if where.type == "cuda" else "multiscale_fusion",
        "fusion_clock",
        folder=out,
        device=where,
        command="python benchmarks/multiscale_fusion.py" + (" --device cuda" if where.type == "cuda" else ""),
        threads=threads,
        rounds=rounds,
        batches=rows,
    )
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents")


def built() -> dict[str, nn.Module]:
    """The mixture, its skipping forms and the controls, all in evaluation mode."""
    fusions = {kind: build_fusion(kind, DIM, SCALES, match="flops", hidden_dim=HIDDEN) for kind in ("mlp", "moe")}
    fusions["attention"] = build_fusion("attention", DIM, SCALES, match="flops", hidden_dim=HIDDEN)
    fusions["wide attention"] = build_fusion("attention", DIM, SCALES, match="parameters", hidden_dim=HIDDEN)
    fusions["top 1"] = build_fusion("moe", DIM, SCALES, hidden_dim=HIDDEN, top_k=1)
    fusions["threshold"] = build_fusion("moe", DIM, SCALES, hidden_dim=HIDDEN, expert_threshold=1 / 3)
    for name in ("top 1", "threshold"):
        fusions[name].load_state_dict(fusions["moe"].state_dict())
    return {name: fusion.eval() for name, fusion in fusions.items()}


def measured(
    fusions: dict[str, nn.Module], features: list[Tensor], console: Console, rounds: int
) -> dict[str, dict[str, float]]:
    """Of each fusion its milliseconds, its ratios and its FLOPs."""
    with torch.inference_mode():
        runs = {name: Run(lambda fusion=fusion: fusion(features)) for name, fusion in fusions.items()}
        weights = torch.cat([p.flatten() for p in fusions["moe"].parameters()])
        runs["read"] = Run(weights.sum)
        samples = timed(f"{len(features[0])} samples", runs, console, rounds=rounds, device=features[0].device)
    rows = {}
    for name, fusion in fusions.items():
        rows[name] = {"ms": median(samples[name])}
        for other in ("mlp", "attention", "wide attention"):
            ratio, key = paired(samples[name], samples[other]), f"by_{other.replace(' ', '_')}"
            rows[name] |= {key: ratio.median, f"{key}_low": ratio.low, f"{key}_high": ratio.high}
        counted = moezoo.measure.flops(fusion, (features,))
        rows[name] |= {
            "flops": counted.executed,
            "flops_by_formula": counted.analytic,
            "parameters": sum(p.numel() for p in fusion.parameters()),
        }
    return rows | {"read": {"ms": median(samples["read"])}}


def median(samples: Sequence[float | None]) -> float:
    """Milliseconds."""
    return statistics.median(time for time in samples if time is not None)


if __name__ == "__main__":
    typer.run(main)
