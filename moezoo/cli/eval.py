"""``moezoo eval``: accuracy, calibration and routing of a model on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def eval_(
    name: Annotated[str, typer.Argument(help="model name, or local-dir:FOLDER of a finished run")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value, for example data.name=digits")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help=".safetensors file with the weights")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="take pretrained weights")] = False,
    split: Annotated[str, typer.Option(help="val or test")] = "test",
    out: Annotated[Path | None, typer.Option(help="also write the numbers to this JSON file")] = None,
) -> None:
    """Evaluate a model: top-1, top-5, per class, calibration, and the load of every expert."""
    from rich.console import Console

    from moezoo.errors import ConfigError
    from moezoo.eval import evaluate
    from moezoo.eval.tables import labels_table, metrics_table, routing_table
    from moezoo.moe.checks import check_choice
    from moezoo.names import is_stored_name
    from moezoo.train import create_for, find_device, probe_folder, resolve_recipe
    from moezoo.train.output import write_json

    check_choice("split", split, ("val", "test"))
    if out is not None:
        probe_folder(out.parent)
    recipe = resolve_recipe(name, assignments=set_ or [])
    if not (checkpoint or pretrained or is_stored_name(name)):
        raise ConfigError(
            f"{name!r} would be evaluated with random weights: give --checkpoint FILE, --pretrained, or the "
            "name local-dir:FOLDER of a finished run."
        )
    model, splits = create_for(recipe, pretrained=pretrained, checkpoint=checkpoint)
    model.to(find_device(recipe.training.device))
    batch_size, names = 2 * recipe.training.batch_size, splits.label_names
    report = evaluate(model, getattr(splits, split), batch_size=batch_size, label_names=names)
    console = Console()
    console.print(metrics_table(report.classification, f"{name} on {splits.name}, {split} images"))
    console.print(labels_table(report.classification))
    if report.routing:
        console.print(routing_table(report.routing))
    if out is not None:
        write_json(out, report.to_dict())
        console.print(f"  {out}", soft_wrap=True)
