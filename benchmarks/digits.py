"""A model and its dense twin on scikit-learn's digits, over several seeds: accuracy with its spread, and cost.

    python benchmarks/digits.py                         # EntityMoE, three seeds, about eight minutes on two cores
    python benchmarks/digits.py --model vmoe/digits     # and soft_moe/digits, a few minutes each

The epoch is chosen on validation images, each model is tested once. Writes ``results/digits.json``, or
``results/vmoe_digits.json`` and so on.
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

MODEL = "entity_moe/digits"
BATCH = 32


def main(
    model: Annotated[str, typer.Option(help="the MoE; its dense twin is its variant")] = MODEL,
    seeds: Annotated[int, typer.Option(help="seeds 0 to N-1")] = 3,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated")] = None,
    out: Annotated[Path, typer.Option(help="folder of digits.json")] = RESULTS,
) -> None:
    """Train every seed of both models, then time the last pair interleaved."""
    console = Console()
    names = {"MoE": model, "dense twin": f"{model}.dense"}
    accuracy: dict[str, list[float]] = {title: [] for title in names}
    models = {}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            for title, name in names.items():
                recipe = resolve_recipe(name, assignments=[*(set_ or []), f"training.seed={seed}"])
                run = train_recipe(
                    recipe, Path(folder) / f"{title}-{seed}", observer=ProgressBar(f"{title} {seed}", console)
                )
                accuracy[title].append(run.result.test.classification.top1)
                models[title] = run.model.eval()
    batch = torch.stack([run.splits.test[i][0] for i in range(BATCH)])
    timing = measure.latency(models, batch, rounds=100, baseline="dense twin")
    found: dict[str, dict[str, Any]] = {}
    for title, trained in models.items():
        parameters = measure.parameters(trained)
        found[title] = {
            "test_accuracy": accuracy[title],
            "parameters": parameters.total,
            "active": parameters.active,
            "mflops": measure.flops(trained, batch).executed / BATCH / 1e6,
            "latency_ratio": timing[title].ratio,
            "latency_quartiles": [timing[title].ratio_low, timing[title].ratio_high],
        }
    own = model == MODEL
    path = store(
        "digits" if own else model.replace("/", "_"),
        "comparison",
        folder=out,
        command=f"python benchmarks/digits.py{'' if own else f' --model {model}'}",
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
