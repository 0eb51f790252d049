"""``moezoo eval NAME --all-baselines``: every variant of a model that has a finished run, side by side."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moezoo.cli.folders import RUNS, run_folder

if TYPE_CHECKING:
    from torch import nn

    from moezoo.data import Splits
    from moezoo.train import Recipe

LOOKED_AT = 8
"""Images that tell whether two runs were trained on the same ones."""
BASELINE = ".full_compute"
"""The variant that times are compared with."""


@dataclass(frozen=True)
class Found:
    """A variant with a finished run."""

    title: str
    recipe: Recipe
    model: nn.Module
    splits: Splits


def variants_of(name: str, runs: Path = RUNS) -> list[str]:
    """All names of the model that ``name`` is a variant of, the model itself first.

    Those of an architecture that is built by its name alone are not registered: the ones with a folder in ``runs``.

    Raises:
        ConfigError: ``name`` is a stored model.
        UnknownModelError: There is no such model.
    """
    from moezoo.errors import ConfigError
    from moezoo.names import is_stored_name
    from moezoo.registry import is_model, list_models, model_config, resolve

    if is_stored_name(name):
        raise ConfigError(f"--all-baselines takes a model's name such as attention_routing/digits, not {name!r}")
    base = str(resolve(name)[0].base)
    model_config(base)
    names = [base, *(each for each in list_models(f"{base}.*") if each != base)]
    stem = run_folder(base, runs).name
    there = [base + path.name.removeprefix(stem) for path in sorted(runs.glob(f"{stem}.*"))]
    return [*names, *(each for each in there if each not in names and is_model(each))]


def title_of(name: str) -> str:
    """A variant as ``.dense``, the model itself as ``digits``."""
    arch, dot, variant = name.partition("/")[2].partition(".")
    return f"{dot}{variant}" or arch


def missing_runs(names: Sequence[str], runs: Path) -> dict[str, str]:
    """Each of ``names`` without a finished run in ``runs``, with the command that makes one."""
    missing = {}
    for name in names:
        folder = run_folder(name, runs)
        if (folder / "metrics.json").is_file() and (folder / "config.json").is_file():
            continue
        out = "" if runs == RUNS else f" --out {shlex.quote(str(folder))}"
        resume = " --resume auto" if (folder / "checkpoints").is_dir() else ""
        missing[name] = f"moezoo train {name}{out}{resume}"
    return missing


def load_runs(
    names: Sequence[str], runs: Path, assignments: Sequence[str], split: str, device: str | None
) -> list[Found]:
    """Each run's model and data set.

    Raises:
        ConfigError: The images of ``split`` are not the same ones, or have no labels.
    """
    from moezoo.data import Splits
    from moezoo.errors import ConfigError
    from moezoo.train import create_for, find_device, resolve_recipe

    found = []
    for name in names:
        recipe = resolve_recipe(f"local-dir:{run_folder(name, runs)}", assignments=list(assignments))
        model, splits = create_for(recipe)
        if not isinstance(splits, Splits):
            raise ConfigError(f"--all-baselines is of data sets with labels, and {splits.name!r} has none")
        model.to(find_device(device or recipe.training.device))
        found.append(Found(title_of(name), recipe, model, splits))
    for each in found[1:]:
        if not _same_images(getattr(found[0].splits, split), getattr(each.splits, split)):
            raise ConfigError(
                f"the runs in {str(runs)!r} cannot be compared: the {split} images of {each.title} are not those of "
                f"{found[0].title}. {_differences(found[0], each)}"
            )
    return found


def _same_images(one: Any, other: Any) -> bool:
    """Whether two parts are as long and begin alike."""
    if len(one) != len(other):
        return False
    pairs = [(one[i], other[i]) for i in range(min(len(one), LOOKED_AT))]
    return all(label == same and image.equal(twin) for (image, label), (twin, same) in pairs)


def _differences(one: Found, other: Found) -> str:
    """The options of their data sets that differ, with what makes them equal."""
    from moezoo.data import input_options

    mine, yours = (
        {"name": e.recipe.dataset, **input_options(e.model, e.recipe.dataset), **e.recipe.resolved_data}
        for e in (one, other)
    )
    told = [f"data.{key}: {mine.get(key)!r} and {value!r}" for key, value in yours.items() if value != mine.get(key)]
    return f"Their options: {'; '.join(told)}." if told else ""


def evaluate_baselines(
    name: str,
    *,
    runs: Path,
    assignments: Sequence[str],
    split: str,
    metrics: Sequence[str] | None,
    budgets: Sequence[float],
    batch_size: int | None,
    device: str | None,
    file: Path | None,
    pictures: bool,
) -> None:
    """Print the table, and write ``file`` and ``front.png`` beside it.

    Raises:
        ConfigError: No variant has a finished run.
    """
    from rich.console import Console

    from moezoo.cli.budgets import LATENCY_BATCH, front_pictures
    from moezoo.cli.counting import counted
    from moezoo.cli.log import log_shown
    from moezoo.errors import ConfigError
    from moezoo.eval import compare_models, evaluate_front
    from moezoo.eval.tables_budget import comparison_table, front_table
    from moezoo.measure.image_cost import split_layers
    from moezoo.train.output import write_json

    names = variants_of(name, runs)
    missing = missing_runs(names, runs)
    commands = "\n".join(f"  {command}" for command in missing.values())
    if len(missing) == len(names):
        raise ConfigError(f"no variant of {names[0]!r} has a finished run in {str(runs)!r}. Train them:\n{commands}")
    console = Console()
    with log_shown(console):
        found = load_runs([each for each in names if each not in missing], runs, assignments, split, device)
    first = found[0]
    dataset = getattr(first.splits, split)
    training = first.recipe.training
    shared: dict[str, Any] = {
        "batch_size": batch_size or 2 * training.batch_size,
        "num_workers": training.num_workers,
        "metrics": metrics,
    }
    turned = [each for each in found if budgets and split_layers(each.model)]
    models = {each.title: each.model for each in found}
    full = BASELINE if BASELINE in models else None
    with counted("evaluate", (len(found) + len(turned) * len(budgets)) * len(dataset)) as progress:
        compared = compare_models(
            models,
            dataset,
            label_names=first.splits.label_names,
            latency_batch=LATENCY_BATCH,
            baseline=full,
            progress=progress,
            **shared,
        )
        fronts = {
            each.title: evaluate_front(
                each.model, dataset, budgets, progress=progress, **{**shared, "metrics": metrics or ()}
            )
            for each in turned
        }
    console.print(comparison_table(compared, f"{names[0]} on {first.splits.name}, {split} images"))
    for title, points in fronts.items():
        console.print(front_table(points, f"{title} at several budgets"))
    if missing:
        console.print("Without a finished run:")
        console.print(commands, markup=False, highlight=False, soft_wrap=True)
    if file is None:
        return
    about = {"model": names[0], "dataset": first.splits.name, "split": split}
    front = {title: [point.to_dict() for point in points] for title, points in fronts.items()}
    write_json(file, {**about, **compared.to_dict(), "fronts": front, "missing": missing})
    marks = {each.title: [each] for each in compared.models if each.title not in fronts}
    paths = front_pictures(dict(fronts), marks, full, file.parent, first.recipe.viz.dpi) if pictures else []
    for path in (file, *paths):
        console.print(f"  {path}", markup=False, soft_wrap=True)
