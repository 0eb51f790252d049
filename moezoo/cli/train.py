"""``moezoo train``: train a model by its recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moezoo.cli.folders import run_folder
from moezoo.cli.options import ModelToTrain, RecipeFile, StartPretrained


def train(
    name: ModelToTrain,
    config: RecipeFile = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over both, for example training.epochs=10")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="the run's folder; by default runs/<model>")] = None,
    pretrained: StartPretrained = False,
    resume: Annotated[
        str | None,
        typer.Option(help="auto: go on from the folder's newest checkpoint, if any; or a checkpoint or run to take"),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="drop the run that the folder holds")] = False,
) -> None:
    """Train a model by its recipe (preset < --config < --set), test it once and save it."""
    from rich.console import Console
    from rich.markup import escape

    from moezoo.cli.epoch_pictures import EpochPictures
    from moezoo.cli.log import log_shown
    from moezoo.cli.scores import other_epochs, print_test
    from moezoo.train import is_main_process, leave_processes, resolve_recipe, train_recipe
    from moezoo.train.progress import ProgressBar
    from moezoo.viz import run_pictures

    console = Console()
    folder = out or run_folder(name)
    with log_shown(console):
        recipe = resolve_recipe(name, file=config, assignments=set_ or [])
        viz = recipe.viz
        if is_main_process():
            what = f"{recipe.dataset}, {recipe.training.epochs} epochs, into {folder}"
            console.print(f"Training [bold]{escape(name)}[/] on {escape(what)}", soft_wrap=True)
        run = train_recipe(
            recipe,
            folder,
            pretrained=pretrained,
            observer=ProgressBar(name, console),
            resume=resume,
            overwrite=overwrite,
            on_epoch=EpochPictures(folder, every=viz.every, images=viz.images, layer=viz.layer, dpi=viz.dpi),
        )
    leave_processes()  # only the main one comes back
    pictures = run_pictures(
        run.model,
        run.splits,
        {name: run.result},
        folder,
        images=viz.images,
        layer=viz.layer,
        language=recipe.training.language,
        dpi=viz.dpi,
    )
    print_test(console, run.result.test, f"Test images, epoch {run.result.best_epoch}")
    for line in other_epochs(run.result):
        console.print(line, highlight=False)
    for path in (folder / "model.safetensors", folder / "config.yaml", folder / "metrics.json", *pictures):
        console.print(f"  {escape(str(path))}", soft_wrap=True)
    load = f"moezoo.create_model('local-dir:{folder}', pretrained=True)"
    console.print(f"Load it: {escape(load)}", soft_wrap=True)
