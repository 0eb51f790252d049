"""``moezoo info``: a model's configuration, and on request its size."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from moezoo.cli.options import Fields


def info(
    name: Annotated[str, typer.Argument(help="model name, for example entity_moe/vit_base.last")],
    set_: Fields = None,
    size: Annotated[bool, typer.Option("--size", help="also count parameters, without allocating them")] = False,
) -> None:
    """Show a model's configuration; --size builds it on the meta device and counts parameters."""
    from rich.console import Console
    from rich.table import Table

    from moezoo.config import parse_assignments
    from moezoo.registry import is_model_pretrained, model_config

    config = model_config(name, **parse_assignments(set_ or []))
    table = Table("field", "value", "meaning", title=f"{name}  ({type(config).__name__})", title_justify="left")
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        table.add_row(field.name, "-" if value is None else str(value), field.metadata.get("help", ""))
    console = Console()
    console.print(table)
    console.print(f"pretrained weights: {'yes' if is_model_pretrained(name) else 'none registered'}")
    if size:
        import torch

        from moezoo.backbones.inject import adapters_of
        from moezoo.factory import build
        from moezoo.hub.published import complete_config
        from moezoo.measure.info import RULE, model_costs, model_info

        config = complete_config(config)
        with torch.device("meta"):
            model = build(config)
        # Where nothing was injected, the table has said it all but the costs.
        text = model_info(model, verbose=True) if adapters_of(model) else "\n".join([RULE, *model_costs(model), RULE])
        console.print(text, highlight=False)
