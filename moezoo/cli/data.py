"""``moezoo data``: which data sets there are, what each needs, and getting them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

data = typer.Typer(no_args_is_help=True, help="Data sets: list them, what each needs, get them.")


@data.command("list")
def list_() -> None:
    """List the data sets."""
    from rich.console import Console
    from rich.table import Table

    from moezoo.data.catalogue import CATALOGUE
    from moezoo.parts import datasets

    table = Table("name", "items have", "comes", "what it is", box=None, pad_edge=False)
    for name in datasets:
        card = CATALOGUE.get(name)
        table.add_row(name, *((card.kind, _SOURCES[card.source], card.summary) if card else ("", "", "")))
    Console().print(table)


_SOURCES = {
    "included": "with moezoo",
    "download": "by download",
    "url": "from your URL",
    "yours": "from your disk",
    "generated": "generated",
}


@data.command("info")
def info(
    name: Annotated[str, typer.Argument(help="data set, for example cifar10")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value, an option; with any given the data set is loaded and counted"),
    ] = None,
) -> None:
    """Show what a data set is, what lies where, and its options."""
    from rich.console import Console
    from rich.table import Table

    from moezoo.config import parse_assignments
    from moezoo.data import load_dataset
    from moezoo.data.catalogue import CATALOGUE
    from moezoo.data.signature import REQUIRED, options_of
    from moezoo.parts import datasets

    load, card = datasets.get(name), CATALOGUE.get(name)
    console = Console()
    if card is not None:
        console.print(f"[bold]{name}[/]: {card.summary}", highlight=False)
        facts = {"on disk": card.layout, "comes": _SOURCES[card.source], "terms": card.terms}
        for title, text in facts.items():
            if text:
                console.print(f"  {title}: {text}", highlight=False, markup=False)
    table = Table("option", "default", "meaning", box=None, pad_edge=False)
    for option in options_of(load):
        table.add_row(option.name, "needed" if option.default is REQUIRED else str(option.default), option.help)
    console.print(table)
    if set_:
        splits = load_dataset(name, **parse_assignments(set_))
        console.print(f"\n[bold]{splits.name}[/]", highlight=False)
        for part in ("train", "val", "test", "query", "gallery"):
            if hasattr(splits, part):
                console.print(f"  {part}: {len(getattr(splits, part)):,} images")
        for what in ("num_classes", "num_identities", "unmatched_queries"):
            if hasattr(splits, what):
                console.print(f"  {what.replace('_', ' ').removeprefix('num ')}: {getattr(splits, what):,}")
        if getattr(splits, "left_out", ()):
            first = splits.left_out[0]
            console.print(f"  left out: {len(splits.left_out):,}, the first: {first.path} {first.reason}", markup=False)


@data.command("get")
def get(
    name: Annotated[str, typer.Argument(help="data set, for example cifar10")],
    root: Annotated[Path, typer.Option(help="folder to put it into; later the option root")],
    url: Annotated[str | None, typer.Option(help="where to get it, for sets without a public address")] = None,
    sha256: Annotated[str | None, typer.Option(help="hash that the file at --url must have")] = None,
) -> None:
    """Download a data set, resuming what was cut, and unpack it."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from moezoo.data.catalogue import CATALOGUE
    from moezoo.data.get import get_dataset

    console = Console()
    if url is None:  # torchvision shows a bar of its own
        made = get_dataset(name, root, sha256=sha256)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("download", total=None)
            made = get_dataset(
                name,
                root,
                url=url,
                sha256=sha256,
                progress=lambda what, done, total: bar.update(task, description=what, completed=done, total=total),
            )
    if not made:
        console.print(f"{name} needs no download: it is {_SOURCES[CATALOGUE[name].source]}.")
        return
    for path in made:
        console.print(f"  {path}", soft_wrap=True)
    place = made[0] if name == "image_folder" and len(made) == 1 else root
    console.print(f"Check it: moezoo data info {name} --set root={place}", soft_wrap=True)
