"""``moezoo diff-moe``: train and test the models of images and text by the flags of their document."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moezoo.cli.options import RecipeFile

if TYPE_CHECKING:
    from rich.console import Console

    from moezoo.eval import Evaluation
    from moezoo.train import Recipe, TrainedRun

FAMILY = "diff_moe"
MODES = ("train", "test", "train_test")


def diff_moe(
    dataset: Annotated[
        str, typer.Option(help="cifar10, fashion_mnist, flickr8k, …; flickr8k.captioner, cifar10.dense, …")
    ],
    mode: Annotated[str, typer.Option(help="train; test, which never trains; or train_test")] = "train_test",
    batch_size: Annotated[int | None, typer.Option("--batch_size", "-b", help="images per forward")] = None,
    epochs: Annotated[int | None, typer.Option(help="passes over the training images")] = None,
    lr: Annotated[float | None, typer.Option(help="peak learning rate")] = None,
    weight_decay: Annotated[float | None, typer.Option("--weight_decay", help="of AdamW")] = None,
    accumulation_steps: Annotated[
        int | None, typer.Option("--accumulation_steps", help="forwards whose gradients make one step")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="what --mode test reads; by default checkpoints/<dataset>_model.safetensors")
    ] = None,
    save_dir: Annotated[
        Path, typer.Option("--save_dir", help="folder of checkpoints/, visualizations/ and runs/")
    ] = Path(),
    config: RecipeFile = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over both, for example data.root=data")
    ] = None,
    resume: Annotated[
        str | None, typer.Option(help="auto: go on from the run's newest checkpoint, if any; or one to take")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="drop the run that --save_dir holds")] = False,
) -> None:
    """Train and test the model of images and text that belongs to a data set; recipe < --config < flags < --set."""
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.errors import ConfigError
    from moezoo.moe.checks import check_choice
    from moezoo.train import is_main_process, leave_processes, probe_folder, resolve_recipe
    from moezoo.train.from_file import recipe_for_file

    check_choice("--dataset", dataset, _datasets())
    check_choice("--mode", mode, MODES)
    given = {
        "batch_size": batch_size,
        "epochs": epochs,
        "lr": lr,
        "weight_decay": weight_decay,
        "grad_accum_steps": accumulation_steps,
    }
    flags = [f"training.{key}={value}" for key, value in given.items() if value is not None]
    name, trains = f"{FAMILY}/{dataset}", mode != "test"
    recipe = resolve_recipe(name, file=config, assignments=[*flags, *(set_ or [])])
    usual = resolve_recipe(name.partition(".")[0])
    if recipe.dataset != usual.dataset:
        raise ConfigError(
            f"--dataset {dataset} is trained and tested on {usual.dataset!r}, and --config or --set names "
            f"{recipe.dataset!r}: leave data.name out, or take moezoo train {name}."
        )
    if trains and checkpoint is not None:
        raise ConfigError(
            f"--checkpoint {checkpoint} is what --mode test reads; --mode {mode} goes on with a run by --resume, and "
            "begins with other weights by moezoo train NAME --pretrained."
        )
    if not trains and (resume is not None or overwrite):
        raise ConfigError("--resume and --overwrite go with training; --mode test does not train.")
    file = checkpoint or save_dir / "checkpoints" / f"{dataset}_model.safetensors"
    if not trains:
        recipe = recipe_for_file(recipe, usual, file)
    for folder in ("checkpoints", "visualizations"):
        probe_folder(save_dir / folder)
    console, run = Console(), None
    with log_shown(console):
        if trains:
            run = _train(recipe, save_dir / "runs" / f"{FAMILY}-{dataset}", file, resume, overwrite, console)
        leave_processes()  # only the main one comes back
        if is_main_process():
            _look(recipe_for_file(recipe, recipe, file), run, file, save_dir, mode, console)


def _datasets() -> list[str]:
    """What the family has a model for, each also with its variants."""
    from moezoo.registry import list_models

    return [name.partition("/")[2] for name in list_models(family=FAMILY)]


def _train(
    recipe: Recipe, folder: Path, file: Path, resume: str | None, overwrite: bool, console: Console
) -> TrainedRun:
    from moezoo.hub.single_file import save_single_file
    from moezoo.train import is_main_process, train_recipe
    from moezoo.train.progress import ProgressBar

    bar = ProgressBar(recipe.name, console)
    run = train_recipe(recipe, folder, observer=bar, resume=resume, overwrite=overwrite)
    if is_main_process():
        save_single_file(run.model, file, dataset=recipe.dataset)
        best = run.result.best
        console.print(f"epoch {best.epoch} of {len(run.result.history)} kept: {best.score_name} {best.score:.2%}")
    return run


def _look(recipe: Recipe, run: TrainedRun | None, file: Path, save_dir: Path, mode: str, console: Console) -> None:
    """Test the saved file unless the mode is train, and draw."""
    from moezoo.train.output import write_json
    from moezoo.viz import documented_pictures

    paths = [file]
    splits: Any  # with labels or captions: the family finds no identities
    if mode == "train":
        assert run is not None
        model, splits, report = run.model, run.splits, run.result.test
    else:
        model, splits, report = _test(recipe, file, console)
        tested = save_dir / "checkpoints" / f"{recipe.name.partition('/')[2]}_test.json"
        write_json(tested, {"checkpoint": str(file), "dataset": splits.name, "split": "test", **report.to_dict()})
        paths.append(tested)
    history = run.result.history if run is not None else None
    paths += documented_pictures(
        model,
        splits,
        report,
        save_dir / "visualizations",
        history=history,
        images=recipe.viz.images,
        layer=recipe.viz.layer,
        language=recipe.training.language,
        dpi=recipe.viz.dpi,
    )
    for path in paths:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)


def _test(recipe: Recipe, file: Path, console: Console) -> tuple[Any, Any, Evaluation]:
    """Model, data set and what the test images say of the saved file."""
    from moezoo.cli.judging import judge_test
    from moezoo.cli.report import print_report
    from moezoo.eval.part import check_belongs
    from moezoo.train import create_for, find_device

    model, splits = create_for(recipe, checkpoint=file)
    check_belongs(model, splits)
    model.to(find_device(recipe.training.device))
    report = judge_test(model, splits, recipe)
    print_report(console, report, f"{file} on {splits.name}, test images")
    return model, splits, report
