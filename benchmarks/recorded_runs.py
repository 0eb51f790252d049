"""Trainings whose figures are kept in a file each, so that a benchmark of many goes on where it was stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from moezoo.train import Recipe


def places(folder: Path, name: str, variant: str, seed: int) -> tuple[Path, Path]:
    """The folder of a run, and its figures."""
    stem = f"{name}-{variant.replace(' ', '_')}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / stem, folder / f"{stem}.json"


def in_full(recipe: Recipe) -> str:
    """The recipe with every value that is left at its default, the model's too."""
    from moezoo import model_config

    return recipe.to_yaml(model_config(recipe.name, **recipe.model))


def read_figures(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """Of a run that is done, ``None`` if it is not; raises ``SystemExit`` if it was of another recipe."""
    if not path.is_file():
        return None
    found = json.loads(path.read_text(encoding="utf-8"))
    if found.get("recipe") != in_full(recipe):
        raise SystemExit(f"{path} was made by another recipe: remove it, or take another --folder")
    return found


def trained_once(
    run: Path,
    result: Path,
    recipe: Recipe,
    figures_of: Callable[[Any], dict[str, Any]],
    say: Callable[[dict[str, Any]], str],
) -> str:
    """Train and test a model, unless that was done, and keep its figures.

    Args:
        run, result: Its :func:`places`.
        recipe: How it is trained.
        figures_of: What is kept of a ``TrainedRun``, besides the recipe.
        say: The figures in a few words.

    Returns:
        A line to print.
    """
    from moezoo.train import train_recipe

    if read_figures(result, recipe) is not None:
        return f"{result.stem}: was done"
    figures = {"recipe": in_full(recipe), **figures_of(train_recipe(recipe, run, resume="auto"))}
    result.write_text(json.dumps(figures, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return f"{result.stem}: {say(figures)}"


def use_one_thread() -> None:
    """So that trainings beside each other, a process each, do not get in each other's way."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)


def run_each(one: Callable[..., str], wanted: Sequence[tuple[Any, ...]], jobs: int, console: Console) -> None:
    """Call ``one`` with each of the arguments in ``jobs`` processes, and print the lines that it returns."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    context = multiprocessing.get_context("spawn")
    with Progress(*columns, console=console) as bar, ProcessPoolExecutor(jobs, mp_context=context) as pool:
        task = bar.add_task("runs", total=len(wanted))
        for done in as_completed([pool.submit(one, *each) for each in wanted]):
            bar.console.print(done.result(), soft_wrap=True)
            bar.advance(task)
