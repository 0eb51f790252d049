"""``moezoo train``: train a model by its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    name: Annotated[str, typer.Argument(help="model name, for example entity_moe/digits")],
    config: Annotated[Path | None, typer.Option(help="YAML file over the model's recipe")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over both, for example training.epochs=10")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the run's folder; by default runs/<model>")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="start from pretrained weights")] = False,
) -> None:
    """Train a model by its recipe (preset < --config < --set), test it once and save it."""
    from rich.console import Console

    from moezoo.eval.tables import metrics_table, routing_table
    from moezoo.train import is_main_process, resolve_recipe, train_recipe
    from moezoo.train.progress import ProgressBar
    from moezoo.viz import run_pictures

    recipe = resolve_recipe(name, file=config, assignments=set_ or [])
    folder = out or Path("runs") / name.rpartition(":")[2].strip("/").replace("/", "-")
    console = Console()
    console.print(f"Training [bold]{name}[/] on {recipe.dataset}, {recipe.training.epochs} epochs, into {folder}")
    run = train_recipe(recipe, folder, pretrained=pretrained, observer=ProgressBar(name, console))
    if not is_main_process():
        return
    viz = recipe.viz
    pictures = run_pictures(
        run.model, run.splits, {name: run.result}, folder, images=viz.images, layer=viz.layer, dpi=viz.dpi
    )
    console.print(metrics_table(run.result.test.classification, f"Test images, epoch {run.result.best_epoch}"))
    if run.result.test.routing:
        console.print(routing_table(run.result.test.routing))
    for path in (folder / "model.safetensors", folder / "config.yaml", folder / "metrics.json", *pictures):
        console.print(f"  {path}", soft_wrap=True)
    console.print(f"Load it: moezoo.create_model('local-dir:{folder}', pretrained=True)", soft_wrap=True)
