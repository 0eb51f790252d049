"""``moezoo predict``: what a model says about image files: their classes, or a caption."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    name: Annotated[str, typer.Argument(help="model name, local-dir:FOLDER or hf-hub:user/repo")],
    inputs: Annotated[
        list[str], typer.Argument(help="image files, folders, or - for a list of paths on standard input")
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="search folders in folders too")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the file; by default standard output")] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="csv, json or jsonl; by default the file's ending, else csv")
    ] = None,
    top: Annotated[int, typer.Option(help="classes to name, at most")] = 5,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="images per forward")] = 32,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
    threads: Annotated[int, typer.Option(help="files read at the same time")] = 4,
    routing: Annotated[
        bool, typer.Option("--routing", help="also say which share of the tokens each expert got")
    ] = False,
    generate: Annotated[
        list[str] | None,
        typer.Option(help="of a captioner: key=value, for example num_beams=1; may be repeated"),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 if a single image has no answer")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help=".safetensors file with the weights")] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="take pretrained weights")] = False,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value, a configuration field; may be repeated")
    ] = None,
) -> None:
    """Classify images, or caption them.

    A file that cannot be read is reported and passed over; exit code 1 if none has an answer.
    """
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moezoo.config import parse_assignments
    from moezoo.errors import ConfigError, DataError
    from moezoo.eval.files import predict_files
    from moezoo.eval.image_paths import LIST, image_paths
    from moezoo.eval.prediction_writers import format_of, prediction_file, prediction_writer
    from moezoo.eval.reading import writes_captions
    from moezoo.factory import create_model
    from moezoo.hub.files import check_writable
    from moezoo.names import is_stored_name
    from moezoo.train import find_device

    format = format_of(out, format)
    if inputs.count(LIST) > 1:
        raise ConfigError(f"the input {LIST!r} is given {inputs.count(LIST)} times: standard input can be read once.")
    if out is not None:
        check_writable(out.parent)
    stored = is_stored_name(name)
    if not (checkpoint or pretrained or stored):
        raise ConfigError(
            f"{name!r} would predict with random weights: give --checkpoint FILE, --pretrained, or the name of a "
            "stored model (local-dir:FOLDER, hf-hub:user/repo)."
        )
    # Counted before, so that the bar knows how far it is; a list on standard input can be read only once.
    total = None if LIST in inputs else sum(1 for _ in image_paths(inputs, recursive=recursive))
    model = create_model(name, pretrained or stored, checkpoint_path=checkpoint, **parse_assignments(set_ or []))
    model.eval().to(find_device(device))
    classes = getattr(model, "num_classes", None)
    top = min(top, classes) if classes else top
    found = predict_files(
        model,
        image_paths(inputs, recursive=recursive, lines=sys.stdin.buffer),
        top=top,
        batch_size=batch_size,
        routing=routing,
        threads=threads,
        generation=parse_assignments(generate or [], "--generate"),
    )
    labels = 0 if writes_captions(model) else top
    if out is None:
        # Paths come out as the bytes they are, whatever the locale.
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape", newline="")  # type: ignore[union-attr]
        target = prediction_writer(sys.stdout, format, top=labels, routing=routing)
    else:
        target = prediction_file(out, format, top=labels, routing=routing)
    console = Console(stderr=True, soft_wrap=True)
    columns = (TextColumn("predict"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # On a terminal the rows themselves show how far it is.
    hidden = not console.is_terminal or (out is None and sys.stdout.isatty())
    images = failures = 0
    bar = Progress(*columns, console=console, transient=True, redirect_stdout=False, disable=hidden)
    with target as write, bar:
        task = bar.add_task("predict", total=total)
        for prediction in found:
            write(prediction)
            bar.advance(task)
            images += 1
            if prediction.error is not None:
                failures += 1
                text = f"{prediction.path}: {prediction.error}"
                console.print(text, style="red", markup=False, highlight=False)
    if images == 0:
        raise DataError("no image was given: the list on standard input is empty")
    if failures:
        console.print(f"{failures:,} of {images:,} images have no answer", style="yellow", highlight=False)
    if out is not None:
        console.print(f"  {out}", markup=False, highlight=False)
    if failures == images or (strict and failures):
        raise typer.Exit(1)
