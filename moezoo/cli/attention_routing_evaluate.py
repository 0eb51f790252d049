"""``moezoo attention-routing evaluate``: one saved model, or all of them side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from moezoo.cli.attention_routing_files import Files
from moezoo.cli.documented_flags import FAMILY, Documented, model_names

if TYPE_CHECKING:
    from torch import nn

    from moezoo.data import Splits
    from moezoo.train import Recipe

FULL = "full_compute"
"""Whose time the others' are divided by."""


def evaluate_one(asked: Documented, checkpoint: Path | None, save_dir: Path) -> None:
    """Test one model as ``checkpoints/evaluation_results.json`` and in pictures."""
    from rich.console import Console

    from moezoo.cli.judging import judge_test
    from moezoo.cli.log import log_shown
    from moezoo.cli.report import print_report
    from moezoo.train import probe_folder
    from moezoo.train.output import write_json
    from moezoo.viz import evaluation_pictures, model_figures, save_figures

    files, console = Files(save_dir), Console()
    file = checkpoint or files.weights(asked.model or FAMILY)
    if checkpoint is None and asked.model is None and not file.is_file() and files.weights().is_file():
        file = files.weights()
    with log_shown(console):
        recipe = _stored(asked, asked.model, file)
        title = _title(recipe)
        probe_folder(files.pictures(title))
        model, splits = _load(recipe, file)
        report = judge_test(model, splits, recipe)
        print_report(console, report, f"{file} on {splits.name}, test images")
        found = {"model": title, "checkpoint": str(file), "dataset": splits.name, "split": "test", **report.to_dict()}
        paths = [files.results("evaluation", title), files.results("evaluation")]
        for path in paths:
            write_json(path, found)
        viz, folder = recipe.viz, files.pictures(title)
        paths += evaluation_pictures(report, folder, title=str(file), dpi=viz.dpi)
        figures = model_figures(model, splits, images=viz.images, layer=viz.layer)
        paths += save_figures(figures, folder, dpi=viz.dpi)
    _print_paths(console, paths)


def evaluate_all(asked: Documented, save_dir: Path) -> None:
    """Compare every model that was trained as ``checkpoints/baseline_comparison.json`` and as a front."""
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.errors import ConfigError
    from moezoo.eval import compare_models
    from moezoo.eval.tables_budget import comparison_table
    from moezoo.train import probe_folder
    from moezoo.train.output import write_json
    from moezoo.viz import front_figure, save_figure

    files, console = Files(save_dir), Console()
    names = model_names(asked.dataset)
    there = {name: files.weights(name) for name in names if files.weights(name).is_file()}
    if not there:
        raise ConfigError(
            f"--mode eval_all finds none of {', '.join(str(files.weights(name)) for name in names)}: train them by "
            "moezoo attention-routing train --model.name NAME."
        )
    with log_shown(console):
        recipes = {name: _stored(asked, name, file) for name, file in there.items()}
        _check_same_images(recipes)
        loaded = {name: _load(recipe, there[name]) for name, recipe in recipes.items()}
        first, splits = recipes[next(iter(recipes))], loaded[next(iter(loaded))][1]
        probe_folder(files.pictures())
        found = compare_models(
            {name: model for name, (model, _) in loaded.items()},
            splits.test,
            label_names=splits.label_names,
            batch_size=2 * first.training.batch_size,
            num_workers=first.training.num_workers,
            baseline=FULL if FULL in there else None,
        )
        console.print(comparison_table(found, f"{splits.name}, test images"))
        if missing := [name for name in names if name not in there]:
            console.print(f"not trained: {', '.join(missing)}", style="dim", highlight=False, soft_wrap=True)
        write_json(files.comparison, {"dataset": splits.name, "split": "test", **found.to_dict()})
        figure = front_figure({}, {model.title: [model] for model in found.models})
        picture = save_figure(figure, files.pictures() / "baseline_comparison.png", dpi=first.viz.dpi)
    _print_paths(console, [files.comparison, picture])


def _stored(asked: Documented, model: str | None, file: Path) -> Recipe:
    """The recipe for ``file``, which has to hold what is asked for. No weight is read."""
    from moezoo.errors import ConfigError
    from moezoo.train.from_file import recipe_for_file

    recipe = recipe_for_file(asked.recipe(model), asked.usual(FAMILY), file)
    if model is not None and _title(recipe) != model:
        raise ConfigError(f"{str(file)!r} holds {recipe.name}, and --model.name asks for {model}.")
    return recipe


def _load(recipe: Recipe, file: Path) -> tuple[nn.Module, Splits]:
    from moezoo.eval.part import check_belongs
    from moezoo.train import create_for, find_device

    made: Any = create_for(recipe, checkpoint=file)
    model, splits = made
    check_belongs(model, splits)
    return model.to(find_device(recipe.training.device)).eval(), splits


def _check_same_images(recipes: dict[str, Recipe]) -> None:
    """They are compared on the very same tensors."""
    from moezoo.errors import ConfigError
    from moezoo.registry import model_config

    seen: dict[str, Any] = {}
    for name, recipe in recipes.items():
        config = model_config(recipe.name, **recipe.model)
        seen[name] = (config.sides, config.in_channels, config.per_channel("mean"), config.per_channel("std"))
    first = next(iter(seen))
    for name, images in seen.items():
        if images != seen[first]:
            raise ConfigError(
                f"{first} and {name} take other images, (sides, channels, mean, std) {seen[first]} and {images}: they "
                "cannot be compared on the same ones."
            )


def _title(recipe: Recipe) -> str:
    """The document's name of a model."""
    return recipe.name.partition("/")[2].partition(".")[2] or FAMILY


def _print_paths(console: Any, paths: list[Path]) -> None:
    for path in paths:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
