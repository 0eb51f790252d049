"""``moezoo quickstart``: a first MoE in minutes, beside its dense twin, on real images without a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console
    from rich.panel import Panel
    from rich.table import Table

    from moezoo.train import Recipe, TrainedRun

MODELS = {"MoE": "entity_moe/digits", "dense twin": "entity_moe/digits.dense"}
FOLDERS = {"MoE": "moe", "dense twin": "dense"}
LATENCY_BATCH = 32


def quickstart(
    out: Annotated[Path, typer.Option(help="folder for models and pictures")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(help="seed of both trainings")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over the recipe, for example training.epochs=5"),
    ] = None,
) -> None:
    """Train an MoE and its dense twin on handwritten digits, compare them, look inside, save and reload."""
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.errors import MoeZooError
    from moezoo.eval.tables import routing_table
    from moezoo.train import probe_folder, resolve_recipe, train_recipe
    from moezoo.train.output import write_json
    from moezoo.train.progress import ProgressBar
    from moezoo.viz import run_pictures

    console = Console()
    recipes = {
        title: resolve_recipe(name, assignments=[*(set_ or []), f"training.seed={seed}"])
        for title, name in MODELS.items()
    }
    folder = probe_folder(out)
    recipe = recipes["MoE"]
    console.print(_plan(recipe, seed, folder))
    with log_shown(console):
        runs = {
            title: train_recipe(
                recipes[title], folder / FOLDERS[title], observer=ProgressBar(f"{title:10}", console), overwrite=True
            )
            for title in MODELS
        }
    moe = runs["MoE"]
    figures = _compare(runs)
    write_json(folder / "comparison.json", figures)
    console.print()
    console.print(_comparison_table(figures, moe))
    console.print(routing_table(moe.result.test.routing, "Expert load on the test images"))
    viz = recipe.viz
    pictures = run_pictures(
        moe.model,
        moe.splits,
        {title: run.result for title, run in runs.items()},
        folder,
        images=viz.images,
        layer=viz.layer,
        dpi=viz.dpi,
    )
    for title, run in runs.items():
        if not _reloads_equal(run):
            raise MoeZooError(f"the {title} read back from {run.folder} does not give the logits of the one saved")
        said = f"{title}: read back from {run.folder}, logits equal bit for bit"
        console.print(f"[green]✓[/] {said}", soft_wrap=True)
    _say_where(console, folder, pictures)


def _plan(recipe: Recipe, seed: int, folder: Path) -> Panel:
    """What is going to happen, narrow enough for any terminal."""
    from rich.panel import Panel

    return Panel(
        f"[bold]1[/]  Train [cyan]{MODELS['MoE']}[/] and its dense twin from scratch on\n"
        "   scikit-learn's handwritten digits: 1,797 real images.\n"
        f"   Same loop, same settings, {recipe.training.epochs} epochs, seed {seed}\n"
        "[bold]2[/]  Compare accuracy, parameters, executed FLOPs and latency\n"
        "[bold]3[/]  Draw the training, the load of the experts, the token routing\n"
        "[bold]4[/]  Save both, load them again, check that nothing changed\n\n"
        "No download. A few minutes on two CPU cores.\n"
        f"Everything goes to [bold]{folder}[/]",
        title="moezoo quickstart",
        title_align="left",
        border_style="blue",
        padding=(1, 2),
        expand=False,
    )


def _compare(runs: Mapping[str, TrainedRun]) -> dict[str, dict[str, Any]]:
    """Accuracy and cost of each model; the costs on the same test images."""
    import torch

    from moezoo import measure

    some = next(iter(runs.values()))
    batch = torch.stack([some.splits.test[i][0] for i in range(LATENCY_BATCH)])
    models = {title: run.model for title, run in runs.items()}
    timings = measure.latency(models, batch, rounds=30, baseline="dense twin")
    figures = {}
    for title, run in runs.items():
        parameters = measure.parameters(run.model)
        timing = timings[title]
        routing = run.result.test.routing
        figures[title] = {
            "model": run.recipe.name,
            "val_accuracy": run.result.best.val_accuracy,
            "test_accuracy": run.result.test.classification.top1,
            "parameters": parameters.total,
            "active_parameters": parameters.active,
            "executed_flops_per_image": measure.flops(run.model, batch).executed / LATENCY_BATCH,
            "latency_ms": timing.p50,
            "latency_ratio": timing.ratio,
            "latency_ratio_quartiles": [timing.ratio_low, timing.ratio_high],
            "latency_batch": LATENCY_BATCH,
            "threads": torch.get_num_threads(),
            "dead_experts": sum(len(load.dead_experts) for load in routing),
            "experts": sum(load.num_experts for load in routing),
            "seconds": run.result.seconds,
        }
    return figures


def _comparison_table(figures: Mapping[str, Mapping[str, Any]], run: TrainedRun) -> Table:
    from moezoo.eval.tables import plain_table

    table = plain_table("MoE and dense twin", "", *figures)
    columns = list(figures.values())

    def row(label: str, text, style: str = "") -> None:
        table.add_row(label, *(text(f) for f in columns), style=style)

    row("validation accuracy", lambda f: f"{f['val_accuracy']:.2%}")
    row(
        f"test accuracy, {run.result.test.classification.samples} images",
        lambda f: f"{f['test_accuracy']:.2%}",
        "bold",
    )
    row("parameters", lambda f: f"{f['parameters']:,}")
    row("active per token", lambda f: f"{f['active_parameters']:,}")
    row("executed FLOPs per image", lambda f: f"{f['executed_flops_per_image'] / 1e6:,.1f} M")
    row(f"latency, {columns[0]['latency_batch']} images", lambda f: f"{f['latency_ms']:.1f} ms")
    row("latency over the twin's", lambda f: f"{f['latency_ratio']:.2f} x")
    row("dead experts", lambda f: f"{f['dead_experts']} of {f['experts']}" if f["experts"] else "-")
    row("training time", lambda f: f"{f['seconds']:.0f} s")
    return table


def _reloads_equal(run: TrainedRun) -> bool:
    """Whether the saved model, built anew from its folder, gives the very same logits on test images."""
    import torch

    from moezoo import create_model

    batch = torch.stack([run.splits.test[i][0] for i in range(LATENCY_BATCH)])
    again = create_model(f"local-dir:{run.folder}", pretrained=True).eval()
    with torch.no_grad():
        return torch.equal(run.model.eval()(batch), again(batch))


def _say_where(console: Console, folder: Path, pictures: list[Path]) -> None:
    lines = [
        "",
        "[bold]Pictures[/]",
        *(f"  {path}" for path in pictures),
        "[bold]Models[/]  (config.yaml, config.json, model.safetensors, metrics.json, README.md)",
        *(f"  {folder / name}" for name in FOLDERS.values()),
        "",
        "[bold]Next[/]",
        f"  moezoo eval local-dir:{folder / 'moe'}",
        f"  moezoo train {MODELS['MoE']} --set num_experts=8 --set expert_k=2",
        "  moezoo list",
    ]
    console.print("\n".join(lines), soft_wrap=True, highlight=False)
