"""``moezoo pull``: a published model into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def pull(
    name: Annotated[str, typer.Argument(help="hf-hub:user/repo[@revision], or a name that has pretrained weights")],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="where to; a model saved there is replaced")],
) -> None:
    """Fetch a model, check every file of it, and put it into a folder for local-dir:."""
    from rich.console import Console

    from moezoo.cli.weights import stored_source
    from moezoo.factory import create_model
    from moezoo.hub import check_writable, pull_model, save_pretrained

    check_writable(folder)
    with Console(stderr=True).status("pull"):
        if source := stored_source(name):
            pull_model(source, folder)
        else:
            save_pretrained(create_model(name, pretrained=True), folder)
    Console().print(f"  {folder}", markup=False, highlight=False, soft_wrap=True)
