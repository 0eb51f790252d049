"""``moezoo ablate``: change one thing of a model's recipe at a time, train, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moezoo.cli.options import StartPretrained

if TYPE_CHECKING:
    from rich.console import Console

    from moezoo.ablate import Plan


def ablate(
    name: Annotated[str, typer.Argument(help="model name, for example attention_routing/digits")],
    config: Annotated[
        Path | None, typer.Option(help="YAML file: sections of a recipe, and vary: {factor: [value, …]}")
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(help="factor=value,value in place of the files' factors; may be repeated"),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="this factor alone; may be repeated")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value in every run, for example training.epochs=10")
    ] = None,
    seeds: Annotated[int, typer.Option(help="runs of everything, with seeds that follow the recipe's")] = 1,
    out: Annotated[Path | None, typer.Option(help="the ablation's folder; by default runs/ablation-<model>")] = None,
    pretrained: StartPretrained = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="also parameters, time per image and memory of the models")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="drop the runs that the folder holds")] = False,
) -> None:
    """Train a model with one thing of its recipe changed at a time, choose on validation images, report the test.

    A factor is a key of the model, training.KEY, data.KEY, variant, or a dial of the trained model (threshold, budget),
    which needs no training. The same command goes on where an earlier one was stopped or killed.
    """
    from rich.console import Console

    from moezoo.ablate import resolve_plan

    plan = resolve_plan(
        name,
        file=config,
        vary=vary or (),
        only=only or (),
        assignments=set_ or (),
        seeds=seeds,
        pretrained=pretrained,
        measure=measure,
    )
    folder = out or Path("runs") / f"ablation-{name.strip('/').replace('/', '-')}"
    console = Console()
    for path in run_ablation(plan, folder, console, overwrite=overwrite):
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)


def run_ablation(
    plan: Plan, folder: Path, console: Console, *, tables: Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Do it behind a bar, print the table, draw; the files, which lie in ``folder`` or else in ``tables`` too."""
    from moezoo.ablate import ablate
    from moezoo.ablate.progress import AblationBar
    from moezoo.ablate.tables import ablation_table, cost_tables
    from moezoo.cli.log import log_shown
    from moezoo.train import probe_folder
    from moezoo.viz import ablation_figure, save_figure

    names = ", ".join(factor.name for factor in plan.factors)
    console.print(f"Ablating {plan.name} by {names}, into {folder}", markup=False, highlight=False, soft_wrap=True)
    with log_shown(console):
        found = ablate(plan, folder, watcher=AblationBar(plan.name, console), overwrite=overwrite)
    for table in (ablation_table(found), *cost_tables(found)):
        console.print(table)
    metric = found.rows[0].results[0].test_name.removeprefix("test_")
    figure = ablation_figure(found.points(), base=found.base_values(), metric=metric)
    place = probe_folder(tables or folder)
    return [*found.write(place), save_figure(figure, place / "ablation.png", dpi=plan.recipe().viz.dpi)]
