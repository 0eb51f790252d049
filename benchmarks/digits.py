"""EntityMoE and its dense twin on scikit-learn's digits, over several seeds: accuracy with its spread, and cost.

    python benchmarks/digits.py                # three seeds, about eight minutes on two cores

The epoch is chosen on validation images, each model is tested once. Writes ``results/digits.json``.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from card_tables.models import comparison_table
from cards import RESULTS, store
from rich.console import Console
from rich.markdown import Markdown

from moezoo import measure
from moezoo.train import resolve_recipe, train_recipe
from moezoo.train.progress import ProgressBar

NAMES = {"MoE": "entity_moe/digits", "dense twin": "entity_moe/digits.dense"}
BATCH = 32


def main(
    seeds: Annotated[int, typer.Option(help="seeds 0 to N-1")] = 3,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated")] = None,
    out: Annotated[Path, typer.Option(help="folder of digits.json")] = RESULTS,
) -> None:
    """Train every seed of both models, then time the last pair interleaved."""
    console = Console()
    accuracy: dict[str, list[float]] = {title: [] for title in NAMES}
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for title, name in NAMES.items():
                recipe = resolve_recipe(name, assignments=[*(set_ or []), f"training.seed={seed}"])
                run = train_recipe(
                    recipe, Path(folder) / f"{title}-{seed}", observer=ProgressBar(f"{title} {seed}", console)
                )
                accuracy[title].append(run.result.test.classification.top1)
                models[title] = run.model.eval()
    batch = torch.stack([run.splits.test[i][0] for i in range(BATCH)])
    timing = measure.latency(models, batch, rounds=100, baseline="dense twin")
    found: dict[str, dict[str, Any]] = {}
    for title, model in models.items():
        parameters = measure.parameters(model)
        found[title] = {
            "test_accuracy": accuracy[title],
            "parameters": parameters.total,
            "active": parameters.active,
            "mflops": measure.flops(model, batch).executed / BATCH / 1e6,
            "latency_ratio": timing[title].ratio,
            "latency_quartiles": [timing[title].ratio_low, timing[title].ratio_high],
        }
    path = store(
        "digits",
        "comparison",
        folder=out,
        command="python benchmarks/digits.py",
        data="digits",
        images=len(run.splits.test),
        batch=BATCH,
        seeds=list(range(seeds)),
        models=found,
    )
    console.print(Markdown(comparison_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
