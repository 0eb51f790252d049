"""``moezoo convert``: other people's files as those that moezoo reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

convert = typer.Typer(no_args_is_help=True, help="Convert other people's weights.")


@convert.callback()
def _kinds() -> None:
    """Convert other people's weights."""


@convert.command("pth")
def pth(
    file: Annotated[Path, typer.Argument(help="a .pth, .pt, .bin or .ckpt file of torch.save")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="by default FILE with .safetensors")] = None,
    key: Annotated[str | None, typer.Option(help="where in the checkpoint the state dict is, for example ema")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the new file where it exists")] = False,
) -> None:
    """Write the tensors of a pickled checkpoint as safetensors, without running anything in it."""
    from rich.console import Console

    from moezoo.hub import convert_pth

    with Console(stderr=True).status("convert"):
        written = convert_pth(file, out, key=key, overwrite=overwrite)
    Console().print(f"  {written}", markup=False, highlight=False, soft_wrap=True)
