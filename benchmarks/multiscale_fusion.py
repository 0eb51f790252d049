"""Time of the fusion of scales by experts beside fusions without a gate that cost as many FLOPs.

    python benchmarks/multiscale_fusion.py               # about two minutes on two cores

Forward passes in evaluation without gradients, features of width 512, three scales, hidden width 1024. A figure is the
median over interleaved rounds of a time by the plain MLP's (or the attention's) time in the same round, with the 90 %
interval of that median. ``top 1`` and ``threshold`` are the same mixture with experts skipped, and their share of its
FLOPs, counted while they ran. At one sample all of them wait for their weights, of which attention, whose weights every
scale uses, has a third.
"""

from __future__ import annotations

import json
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
    batches: Annotated[str, typer.Option(help="comma-separated")] = "1,8,32,64,256",
    rounds: Annotated[int, typer.Option(help="of each batch")] = 60,
    threads: Annotated[int, typer.Option()] = 2,
    out: Annotated[Path, typer.Option(help="folder of multiscale_fusion.json")] = RESULTS,
) -> None:
    """Time the fusions."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    fusions = built()
    console, rows = Console(), {}
    for batch in (int(size) for size in batches.split(",")):
        features = [torch.randn(batch, DIM) for _ in SCALES]
        rows[str(batch)] = measured(fusions, features, console, rounds)
        console.print(batch, json.dumps(rows[str(batch)]))
    path = store(
        "multiscale_fusion",
        "fusion_clock",
        folder=out,
        command="python benchmarks/multiscale_fusion.py",
        threads=threads,
        rounds=rounds,
        batches=rows,
    )
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents")


def built() -> dict[str, nn.Module]:
    """The mixture, its skipping forms and the controls, all in evaluation mode."""
    fusions = {kind: build_fusion(kind, DIM, SCALES, match="flops", hidden_dim=HIDDEN) for kind in ("mlp", "moe")}
    fusions["attention"] = build_fusion("attention", DIM, SCALES, match="flops", hidden_dim=HIDDEN)
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
        samples = timed(f"{len(features[0])} samples", runs, console, rounds=rounds, device=torch.device("cpu"))
    rows = {}
    for name, fusion in fusions.items():
        by_mlp, by_attention = (paired(samples[name], samples[other]) for other in ("mlp", "attention"))
        counted = moezoo.measure.flops(fusion, (features,))
        times = sorted(time for time in samples[name] if time is not None)
        rows[name] = {
            "ms": times[len(times) // 2],
            "by_mlp": by_mlp.median,
            "by_mlp_low": by_mlp.low,
            "by_mlp_high": by_mlp.high,
            "by_attention": by_attention.median,
            "by_attention_low": by_attention.low,
            "by_attention_high": by_attention.high,
            "flops": counted.executed,
            "flops_by_formula": counted.analytic,
            "parameters": sum(p.numel() for p in fusion.parameters()),
        }
    return rows


if __name__ == "__main__":
    typer.run(main)
