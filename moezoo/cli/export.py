"""``moezoo export``: a model as an ONNX file or PyTorch's own exchange file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moezoo.cli.options import Checkpoint, Fields, StoredModel


def export(
    name: StoredModel,
    format: Annotated[str, typer.Option("--format", "-f", help="onnx or pt2")] = "onnx",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the file; by default the name with the format as its ending")
    ] = None,
    pretrained: Annotated[
        bool | None,
        typer.Option("--pretrained/--no-pretrained", help="take pretrained weights; by default for stored models only"),
    ] = None,
    checkpoint: Checkpoint = None,
    img_size: Annotated[int | None, typer.Option(help="side of the image; by default the model's own")] = None,
    static_batch: Annotated[bool, typer.Option("--static-batch", help="fix the number of images")] = False,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="that number, with --static-batch; 1 by default")
    ] = None,
    set_: Fields = None,
    opset: Annotated[int | None, typer.Option(help="version of ONNX's operators; by default torch's choice")] = None,
    check: Annotated[
        bool, typer.Option(help="compare with the model, on images that reach experts which tracing did not")
    ] = True,
) -> None:
    """Export a model, check that the file computes what the model does, and describe it in a JSON beside it."""
    import re

    from rich.console import Console

    from moezoo.config import parse_assignments
    from moezoo.export import check_target, export_model
    from moezoo.factory import create_model
    from moezoo.names import is_stored_name

    stored = is_stored_name(name)
    if output is None:
        plain = Path(name.partition(":")[2]).name if name.startswith("local-dir:") else name.rpartition(":")[2]
        output = Path(f"{re.sub(r'[^A-Za-z0-9_.-]', '-', plain)}.{format}")
    check_target(output, format, opset=opset, check=check)
    overrides = parse_assignments(set_ or [])
    if img_size is not None:
        overrides["img_size"] = img_size
    pretrained = stored if pretrained is None else pretrained
    console, shown = Console(), Console(stderr=True)
    with shown.status("build") as status:
        model = create_model(name, pretrained, checkpoint_path=checkpoint, **overrides)
        exported = export_model(
            model,
            output,
            format=format,
            dynamic_batch=not static_batch,
            batch_size=batch_size,
            opset=opset,
            check=check,
            progress=status.update,
        )
    if not (pretrained or checkpoint):
        console.print("[yellow]The weights are random: this is an untrained model.[/]")
    console.print(f"  {exported.parity or 'not checked'}", highlight=False, soft_wrap=True)
    for path in (exported.file, exported.sidecar):
        console.print(f"  {path}", soft_wrap=True)
