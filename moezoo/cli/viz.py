"""``moezoo viz``: what a model makes of real images, and where their tokens go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moezoo.cli.options import Checkpoint, FinishedModel, TakePretrained

if TYPE_CHECKING:
    from rich.console import Console
    from torch import nn

    from moezoo.train import Recipe


def viz(
    name: FinishedModel,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, for example data.name=digits or viz.images=16"),
    ] = None,
    checkpoint: Checkpoint = None,
    pretrained: TakePretrained = False,
    photos: Annotated[
        bool,
        typer.Option("--photos", help="also draw on scikit-learn's photographs; needs no data set"),
    ] = False,
    budget: Annotated[
        float | None,
        typer.Option(help="share of each image for the big expert, 0 to 1; by default as trained"),
    ] = None,
    out: Annotated[Path, typer.Option(help="folder for the pictures")] = Path("viz"),
) -> None:
    """Draw what fits the model and its task: predictions, routing over test images, what each expert sees and which
    classes it gets, where a router looks and what it gets wrong, attention, which words look where, the confusion
    matrix; of identities what was found for queries, the CMC curve and what the gate over scales is used for; of a
    run's folder also its training.
    """
    from rich.console import Console

    from moezoo.factory import create_model
    from moezoo.moe import set_budget
    from moezoo.names import is_stored_name
    from moezoo.train import create_for, find_device, probe_folder, resolve_recipe
    from moezoo.train.seeding import seeded
    from moezoo.viz import photo_figures, save_figures

    recipe = resolve_recipe(name, assignments=set_ or [], needs_data=not photos)
    folder, stored, splits = probe_folder(out), is_stored_name(name), None
    if recipe.dataset:
        model, splits = create_for(recipe, pretrained=pretrained, checkpoint=checkpoint)
    else:
        with seeded(recipe.training.seed):
            model = create_model(name, pretrained or stored, checkpoint_path=checkpoint, **recipe.model)
    model.to(find_device(recipe.training.device))
    if budget is not None:
        set_budget(model, budget)
    console = Console()
    if not (checkpoint or pretrained or stored):
        console.print("[yellow]The weights are random: these are pictures of an untrained model.[/]")
    pictures = [] if splits is None else _of_data(console, name, recipe, model, splits, folder)
    if photos:
        figures = photo_figures(model, layer=recipe.viz.layer)
        if not figures:
            console.print("The model has neither MoE layers nor attention whose tokens lie on the photographs.")
        pictures += save_figures(figures, folder, dpi=recipe.viz.dpi)
    for path in sorted(set(pictures)):
        console.print(f"  {path}", markup=False, soft_wrap=True)


def _of_data(console: Console, name: str, recipe: Recipe, model: nn.Module, splits, folder: Path) -> list[Path]:
    """The pictures of the data set, and of the run whose folder ``name`` says."""
    from moezoo.cli.judging import judge_test
    from moezoo.cli.scores import print_test
    from moezoo.eval.part import check_belongs
    from moezoo.viz import evaluation_pictures, history_figures, model_figures, read_history, save_figures

    check_belongs(model, splits)
    viz = recipe.viz
    figures = model_figures(model, splits, images=viz.images, layer=viz.layer, language=recipe.training.language)
    if not figures.keys() & {"routing", "routing_decisions", "expert_weights"}:
        console.print("The model has no MoE layer whose tokens lie on the image: there is no routing to draw.")
    run = Path(name.removeprefix("local-dir:")).expanduser() if name.startswith("local-dir:") else None
    report = judge_test(model, splits, recipe)
    pictures = evaluation_pictures(report, folder, title="Confusion on the test images", dpi=viz.dpi)
    if run is not None:
        figures |= history_figures(run.name, read_history(run), run)
    pictures += save_figures(figures, folder, dpi=viz.dpi)
    print_test(console, report, f"{name} on the test images of {splits.name}")
    return pictures
