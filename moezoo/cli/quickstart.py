"""``moezoo quickstart``: a first MoE in minutes, beside its dense twin, on images without a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.panel import Panel

    from moezoo.train import Recipe

MODEL = "entity_moe/digits"
MOE, TWIN = "MoE", "dense twin"
FOLDERS = {MOE: "moe", TWIN: "dense"}
DATA = {
    "digits": "scikit-learn's handwritten digits: 1,797 real images",
    "shapes": "generated images of coloured shapes and their sentences",
    "trispectral": "generated figures in RGB, near and thermal infrared",
}
"""What needs no download."""


def quickstart(
    model: Annotated[
        str, typer.Option(help="what to train: entity_moe/digits, diff_moe/digits, diff_moe/shapes, …")
    ] = MODEL,
    out: Annotated[Path, typer.Option(help="folder for models and pictures")] = Path("quickstart"),
    seed: Annotated[int, typer.Option(help="seed of both trainings")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value over the recipe, for example training.epochs=5"),
    ] = None,
) -> None:
    """Train an MoE and its dense twin, compare them, look inside, save and reload; by default on handwritten digits."""
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.cli.twins import compare, comparison_table, reloads_equal
    from moezoo.errors import MoeZooError
    from moezoo.eval.tables import routing_table
    from moezoo.train import probe_folder, train_recipe
    from moezoo.train.output import write_json
    from moezoo.train.progress import ProgressBar
    from moezoo.viz import run_pictures

    console = Console()
    recipes = _recipes(model, [*(set_ or []), f"training.seed={seed}"])
    folder = probe_folder(out)
    recipe = recipes[MOE]
    console.print(_plan(recipe, seed, folder))
    with log_shown(console):
        runs = {
            title: train_recipe(
                recipes[title], folder / FOLDERS[title], observer=ProgressBar(f"{title:10}", console), overwrite=True
            )
            for title in recipes
        }
    moe = runs[MOE]
    figures = compare(runs, baseline=TWIN)
    write_json(folder / "comparison.json", figures)
    console.print()
    console.print(comparison_table(figures, runs))
    console.print(routing_table(moe.result.test.routing, "Expert load on the test images"))
    viz = recipe.viz
    pictures = run_pictures(
        moe.model,
        moe.splits,
        {title: run.result for title, run in runs.items()},
        folder,
        images=viz.images,
        layer=viz.layer,
        language=recipe.training.language,
        dpi=viz.dpi,
    )
    for title, run in runs.items():
        if not reloads_equal(run):
            raise MoeZooError(f"the {title} read back from {run.folder} does not answer as the one saved")
        what = "logits" if run.result.test.classification is not None else "answers"
        said = f"{title}: read back from {run.folder}, {what} equal bit for bit"
        console.print(f"[green]✓[/] {said}", soft_wrap=True)
    _say_where(console, recipe, folder, pictures)


def _recipes(model: str, assignments: list[str]) -> dict[str, Recipe]:
    """Of the model and of its dense twin, by their titles."""
    from moezoo.config import field_names
    from moezoo.errors import ConfigError
    from moezoo.registry import is_model, model_config
    from moezoo.train import resolve_recipe

    config = model_config(model)
    if "dense" not in field_names(type(config)) or getattr(config, "dense", False):
        raise ConfigError(f"--model {model!r} has no dense twin to compare it with, or is one: name the MoE.")
    named = is_model(f"{model}.dense")
    twin = [] if named else ["model.dense=true"]
    return {
        MOE: resolve_recipe(model, assignments=assignments),
        TWIN: resolve_recipe(f"{model}.dense" if named else model, assignments=[*assignments, *twin]),
    }


def _plan(recipe: Recipe, seed: int, folder: Path) -> Panel:
    """What is going to happen, narrow enough for any terminal."""
    from rich.panel import Panel

    compared = "scores" if recipe.dataset in ("shapes", "trispectral") else "accuracy"
    effort = "No download. A few minutes on two CPU cores." if recipe.dataset in DATA else "As long as its recipe says."
    return Panel(
        f"[bold]1[/]  Train [cyan]{recipe.name}[/] and its dense twin from scratch on\n"
        f"   {_data(recipe)}.\n"
        f"   Same loop, same settings, {recipe.training.epochs} epochs, seed {seed}\n"
        f"[bold]2[/]  Compare {compared}, parameters, executed FLOPs and latency\n"
        "[bold]3[/]  Draw the training, the load of the experts, the token routing\n"
        "[bold]4[/]  Save both, load them again, check that nothing changed\n\n"
        f"{effort}\n"
        f"Everything goes to [bold]{folder}[/]",
        title="moezoo quickstart",
        title_align="left",
        border_style="blue",
        padding=(1, 2),
        expand=False,
    )


def _data(recipe: Recipe) -> str:
    """What the recipe trains on, in words."""
    return DATA.get(recipe.dataset, recipe.dataset)


def _another(recipe: Recipe) -> str:
    """Something to train next: more experts where the family counts them, else another seed."""
    from moezoo.config import field_names
    from moezoo.registry import model_config

    config: Any = model_config(recipe.name)
    fields = field_names(type(config))
    if not isinstance(getattr(config, "num_experts", None), int):
        return f"--set training.seed={recipe.training.seed + 1}"
    per_token = next((f" --set {name}=2" for name in ("expert_k", "top_k") if name in fields), "")
    return f"--set num_experts={2 * config.num_experts}{per_token}"


def _say_where(console: Console, recipe: Recipe, folder: Path, pictures: list[Path]) -> None:
    lines = [
        "",
        "[bold]Pictures[/]",
        *(f"  {path}" for path in pictures),
        "[bold]Models[/]  (config.yaml, config.json, model.safetensors, metrics.json, README.md)",
        *(f"  {folder / name}" for name in FOLDERS.values()),
        "",
        "[bold]Next[/]",
        f"  moezoo eval local-dir:{folder / 'moe'}",
        f"  moezoo train {recipe.name} {_another(recipe)}",
        "  moezoo list",
    ]
    console.print("\n".join(lines), soft_wrap=True, highlight=False)
