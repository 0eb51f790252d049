"""``moezoo list``: the registered names."""

from __future__ import annotations

from typing import Annotated

import typer


def list_(
    pattern: Annotated[str, typer.Argument(help="fnmatch pattern, for example '*swin*'")] = "",
    family: Annotated[str | None, typer.Option(help="only this family")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="pattern to leave out; may be repeated")] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="only names whose weights have a known source")
    ] = False,
) -> None:
    """List model names."""
    from moezoo.registry import list_models

    for name in list_models(pattern, exclude_filters=exclude or "", family=family, pretrained=pretrained):
        typer.echo(name)
