"""``moezoo attention-routing train``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from moezoo.cli.attention_routing_files import Files
from moezoo.cli.documented_flags import FAMILY, Documented

if TYPE_CHECKING:
    from rich.console import Console

    from moezoo.train import TrainedRun


def train_documented(asked: Documented, save_dir: Path, *, resume: str | None, overwrite: bool) -> None:
    """Train, save, test and draw the model that is asked for."""
    from rich.console import Console

    from moezoo.cli.epoch_pictures import EpochPictures
    from moezoo.cli.folders import run_folder
    from moezoo.cli.log import log_shown
    from moezoo.train import leave_processes, probe_folder, train_recipe
    from moezoo.train.progress import ProgressBar

    recipe, files, model = asked.recipe(), Files(save_dir), asked.model or FAMILY
    folder = run_folder(recipe.name, save_dir / "runs")
    pictures, viz = files.pictures(model), recipe.viz
    probe_folder(pictures)
    console = Console()
    with log_shown(console):
        run = train_recipe(
            recipe,
            folder,
            observer=ProgressBar(recipe.name, console),
            resume=resume,
            overwrite=overwrite,
            on_epoch=EpochPictures(
                pictures.parent if model == FAMILY else folder,
                every=viz.every,
                images=viz.images,
                layer=viz.layer,
                dpi=viz.dpi,
            ),
        )
        leave_processes()  # only the main one comes back
        _keep(run, files, model, console)


def _keep(run: TrainedRun, files: Files, model: str, console: Console) -> None:
    from moezoo.cli.scores import print_test
    from moezoo.hub.single_file import save_single_file
    from moezoo.train.output import write_json
    from moezoo.viz import run_pictures

    recipe, viz = run.recipe, run.recipe.viz
    about = {"model": model, "name": recipe.name, "dataset": recipe.dataset}
    written = []
    for name in (model, None):
        written.append(save_single_file(run.model, files.weights(name), dataset=recipe.dataset))
        written.append(files.results("training", name))
        write_json(written[-1], {**about, **run.result.to_dict()})
    written += run_pictures(
        run.model,
        run.splits,
        {recipe.name: run.result},
        files.pictures(model),
        images=viz.images,
        layer=viz.layer,
        dpi=viz.dpi,
    )
    print_test(console, run.result.test, f"Test images, epoch {run.result.best_epoch}")
    for path in written:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
