"""``moezoo viz``: where a model's tokens go, drawn over real images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def viz(
    name: Annotated[str, typer.Argument(help="model name, or local-dir:FOLDER of a finished run")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, for example data.name=digits or viz.images=16"),
    ] = None,
    checkpoint: Annotated[Path | None, typer.Option(help=".safetensors file with the weights")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="take pretrained weights")] = False,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("viz"),
) -> None:
    """Draw token routing over test images, and the confusion matrix, of a model."""
    from rich.console import Console

    from moezoo.eval import evaluate
    from moezoo.eval.tables import metrics_table, routing_table
    from moezoo.names import is_stored_name
    from moezoo.train import create_for, find_device, probe_folder, resolve_recipe
    from moezoo.viz import confusion_figure, dataset_routing_figure, save_figure

    recipe = resolve_recipe(name, assignments=set_ or [])
    folder = probe_folder(out)
    model, splits = create_for(recipe, pretrained=pretrained, checkpoint=checkpoint)
    model.to(find_device(recipe.training.device))
    console = Console()
    if not (checkpoint or pretrained or is_stored_name(name)):
        console.print("[yellow]The weights are random: this is the routing of an untrained model.[/]")
    viz, paths = recipe.viz, []
    figure = dataset_routing_figure(model, splits, images=viz.images, layer=viz.layer)
    paths.append(save_figure(figure, folder / "routing.png", dpi=viz.dpi))
    batch_size, names = 2 * recipe.training.batch_size, splits.label_names
    report = evaluate(model, splits.test, batch_size=batch_size, label_names=names)
    figure = confusion_figure(report.classification, "Confusion on the test images")
    paths.append(save_figure(figure, folder / "confusion.png", dpi=viz.dpi))
    console.print(metrics_table(report.classification, f"{name} on the test images of {splits.name}"))
    console.print(routing_table(report.routing))
    for path in paths:
        console.print(f"  {path}", soft_wrap=True)
