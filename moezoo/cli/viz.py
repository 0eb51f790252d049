"""``moezoo viz``: what a model makes of real images, and where their tokens go."""

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
    """Draw what fits the model and its task: predictions, routing over test images, what each expert sees and which
    classes it gets, attention, which words look where, the confusion matrix; of a run's folder also its training.
    """
    from rich.console import Console

    from moezoo.cli.judging import judge_test
    from moezoo.cli.scores import print_test
    from moezoo.eval.part import check_belongs
    from moezoo.names import is_stored_name
    from moezoo.train import create_for, find_device, probe_folder, resolve_recipe
    from moezoo.viz import evaluation_pictures, history_figures, model_figures, read_history, save_figures

    recipe = resolve_recipe(name, assignments=set_ or [])
    folder = probe_folder(out)
    model, splits = create_for(recipe, pretrained=pretrained, checkpoint=checkpoint)
    check_belongs(model, splits)
    model.to(find_device(recipe.training.device))
    console = Console()
    if not (checkpoint or pretrained or is_stored_name(name)):
        console.print("[yellow]The weights are random: these are pictures of an untrained model.[/]")
    viz = recipe.viz
    figures = model_figures(model, splits, images=viz.images, layer=viz.layer, language=recipe.training.language)
    if "routing" not in figures:
        console.print("The model has no MoE layer whose tokens lie on the image: there is no routing to draw.")
    run = Path(name.removeprefix("local-dir:")).expanduser() if name.startswith("local-dir:") else None
    report = judge_test(model, splits, recipe)
    pictures = evaluation_pictures(report, folder, title="Confusion on the test images", dpi=viz.dpi)
    if run is not None:
        figures |= history_figures(run.name, read_history(run), run)
    pictures += save_figures(figures, folder, dpi=viz.dpi)
    print_test(console, report, f"{name} on the test images of {splits.name}")
    for path in sorted(set(pictures)):
        console.print(f"  {path}", markup=False, soft_wrap=True)
