"""``moezoo search``: how good design spaces are, and good designs in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

search = typer.Typer(no_args_is_help=True, help="Design spaces: what is in them, how good they are, the best of them.")

Data = Annotated[str | None, typer.Option(help="a data set in place of the space's own")]
Epochs = Annotated[int | None, typer.Option(help="of each training; by default the space's")]
Constraints = Annotated[
    list[str] | None, typer.Option("--constraint", help="FIELD<=VALUE, or widths_increase …; may be repeated")
]
Window = Annotated[str | None, typer.Option("--flops", help="LOW,HIGH: executed FLOPs of one image, e.g. 1e6,4e6")]
Assignments = Annotated[
    list[str] | None, typer.Option("--set", help="key=value in every training, for example training.batch_size=32")
]
Seed = Annotated[int, typer.Option(help="of the draws and of every training")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="drop the search that the folder holds")]


@search.command("spaces")
def spaces() -> None:
    """List the design spaces."""
    from rich.console import Console

    from moezoo.search.tables import spaces_table

    Console().print(spaces_table())


@search.command("edf")
def edf(
    names: Annotated[list[str], typer.Argument(metavar="SPACE...", help="one or more spaces")],
    samples: Annotated[int, typer.Option(help="designs of each space")] = 100,
    epochs: Epochs = None,
    data: Data = None,
    out: Annotated[Path, typer.Option(help="the folder")] = Path("runs/search-edf"),
    jobs: Annotated[int, typer.Option(help="processes that train")] = 1,
    constraint: Constraints = None,
    flops: Window = None,
    set_: Assignments = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw designs, train each for a short while, and draw the distribution of their validation errors.

    The same command goes on where an earlier one was stopped or killed; with more samples it trains only the new ones.
    """
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.search import compare_spaces
    from moezoo.search.progress import SearchBar
    from moezoo.search.tables import edf_table
    from moezoo.viz import edf_figure, save_figure

    console = Console()
    with log_shown(console):
        report = compare_spaces(
            names,
            out,
            samples=samples,
            epochs=epochs,
            data=data,
            jobs=jobs,
            seed=seed,
            constraints=constraint or (),
            flops_window=read_window(flops),
            assignments=set_ or (),
            watcher=SearchBar(", ".join(names), console),
            overwrite=overwrite,
        )
    console.print(edf_table(report))
    _show(console, [*report.write(out), save_figure(edf_figure(report.errors()), out / "edf.png")])


@search.command("nas")
def nas(
    name: Annotated[str, typer.Argument(help="a space, or with --vary a model's name")],
    trials: Annotated[int, typer.Option(help="designs to try")] = 20,
    workers: Annotated[int, typer.Option(help="processes that try designs")] = 1,
    epochs: Epochs = None,
    data: Data = None,
    out: Annotated[Path | None, typer.Option(help="the folder; by default runs/search-<name>")] = None,
    sampler: Annotated[str, typer.Option(help="tpe or random")] = "tpe",
    pruning: Annotated[bool, typer.Option(help="stop designs that are worse than the others early")] = True,
    flops_penalty: Annotated[float, typer.Option(help="score that a doubling of the FLOPs has to gain")] = 0.0,
    vary: Annotated[
        list[str] | None, typer.Option(help="key=value,value of the model's recipe; may be repeated")
    ] = None,
    constraint: Constraints = None,
    flops: Window = None,
    set_: Assignments = None,
    seed: Seed = 0,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the search that the folder holds")] = False,
    overwrite: Overwrite = False,
) -> None:
    """Search good designs: choose by validation images, stop bad ones early, test the best once."""
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.search import ArchitectureSearch
    from moezoo.search.progress import SearchBar
    from moezoo.search.tables import search_table
    from moezoo.viz import save_figure
    from moezoo.viz.front import FrontPoint, front_figure

    console = Console()
    folder = out or Path("runs") / f"search-{name.strip('/').replace('/', '-')}"
    with log_shown(console):
        found = ArchitectureSearch(
            name,
            trials=trials,
            epochs=epochs,
            data=data,
            workers=workers,
            sampler=sampler,
            pruning=pruning,
            flops_penalty=flops_penalty,
            constraints=constraint or (),
            flops_window=read_window(flops),
            assignments=set_ or (),
            seed=seed,
            out=folder,
            resume=resume,
            overwrite=overwrite,
            vary=vary or (),
            watcher=SearchBar(name, console),
        ).search()
    console.print(search_table(found))
    paths = found.write(folder)
    if found.best:
        told = ", ".join(f"{key} {value:.2%}" for key, value in found.test.items())
        console.print(f"The best, tested once: {told}", highlight=False)
        if found.best[0].command:
            console.print(f"Train it in full: {found.best[0].command}", markup=False, highlight=False, soft_wrap=True)
        front = [FrontPoint(each.flops, each.score) for each in found.front]
        figure = front_figure({"best at its FLOPs": front}, title=f"{found.space}: validation {found.score_name}")
        paths.append(save_figure(figure, folder / "front.png"))
    _show(console, paths)


def read_window(text: str | None) -> tuple[float, float] | None:
    """``1e6,4e6`` as two numbers.

    Raises:
        ConfigError: It is not two numbers.
    """
    from moezoo.errors import ConfigError

    if text is None:
        return None
    try:
        low, high = (float(number) for number in text.split(","))
    except ValueError:
        raise ConfigError(f"--flops takes LOW,HIGH, for example 1e6,4e6, got {text!r}.") from None
    return low, high


def _show(console: Console, paths: list[Path]) -> None:
    for path in paths:
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
