"""EntityMoE and its dense twin on scikit-learn's digits, over several seeds: accuracy with its spread, and cost.

    python benchmarks/digits.py                # three seeds, about eight minutes on two cores

The epoch is chosen on validation images, each model is tested once. Writes ``digits.md`` and
``digits.json`` beside this script.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
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
    out: Annotated[Path, typer.Option(help="folder of digits.md and digits.json")] = Path(__file__).parent,
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
    rows = {}
    for title, model in models.items():
        parameters = measure.parameters(model)
        rows[title] = {
            "test_accuracy": accuracy[title],
            "parameters": parameters.total,
            "active": parameters.active,
            "mflops": measure.flops(model, batch).executed / BATCH / 1e6,
            "latency_ratio": timing[title].ratio,
            "latency_quartiles": [timing[title].ratio_low, timing[title].ratio_high],
        }
    out.mkdir(parents=True, exist_ok=True)
    text = table(rows)
    (out / "digits.md").write_text(text + "\n", encoding="utf-8")
    (out / "digits.json").write_text(json.dumps({"torch": torch.__version__, "rows": rows}, indent=2), encoding="utf-8")
    console.print(Markdown(text))


def table(rows: dict[str, dict]) -> str:
    """The figures as Markdown."""
    lines = [
        f"| digits, 360 test images, {len(next(iter(rows.values()))['test_accuracy'])} seeds | "
        + " | ".join(rows)
        + " |",
        "|---" * (len(rows) + 1) + "|",
    ]

    def row(label, text):
        lines.append(f"| {label} | " + " | ".join(text(r) for r in rows.values()) + " |")

    def accuracy(r):
        tests = r["test_accuracy"]
        return f"{statistics.mean(tests):.2%} ({min(tests):.2%} to {max(tests):.2%})"

    row("test accuracy, mean (lowest to highest)", accuracy)
    row("parameters", lambda r: f"{r['parameters']:,}")
    row("active per token", lambda r: f"{r['active']:,}")
    row("executed FLOPs per image", lambda r: f"{r['mflops']:.1f} M")
    row(
        "latency over the twin's, 32 images (quartiles)",
        lambda r: f"{r['latency_ratio']:.2f} x ({r['latency_quartiles'][0]:.2f} to {r['latency_quartiles'][1]:.2f})",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
