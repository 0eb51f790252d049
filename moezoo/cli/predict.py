"""``moezoo predict``: what a model says about image files: their classes, a caption, or features."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moezoo.cli.options import Checkpoint, Device, Fields, Generation, StoredModel, TakePretrained

TOP = 5


def predict(
    name: StoredModel,
    inputs: Annotated[
        list[str], typer.Argument(help="image files, folders, or - for a list of paths on standard input")
    ],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="search folders in folders too")] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the file; by default standard output")] = None,
    format: Annotated[
        str | None, typer.Option("--format", "-f", help="csv, json or jsonl; by default the file's ending, else csv")
    ] = None,
    top: Annotated[int, typer.Option(help="classes to name, at most")] = TOP,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="images per forward")] = 32,
    device: Device = "auto",
    threads: Annotated[int, typer.Option(help="files read at the same time")] = 4,
    routing: Annotated[
        bool, typer.Option("--routing", help="also say which share of the tokens each expert got")
    ] = False,
    generate: Generation = None,
    features: Annotated[
        Path | None, typer.Option(help="FILE.npz: write the images' features there, and classify nothing")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="with --features: sightings that lack a modality too")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="exit with 1 if a single image has no answer")] = False,
    checkpoint: Checkpoint = None,
    pretrained: TakePretrained = False,
    set_: Fields = None,
) -> None:
    """Classify images, or caption them, or (--features) write the features that a model compares images by.

    A model of several modalities finds the other files of a sighting beside each: folders RGB, NI, TI or vis, ni, th. A
    file that cannot be read is reported and passed over; exit code 1 if none has an answer.
    """
    import sys

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moezoo.cli.embed import embed_inputs
    from moezoo.cli.weights import check_trained, trained_model
    from moezoo.config import parse_assignments
    from moezoo.errors import ConfigError, DataError
    from moezoo.eval.files import predict_files
    from moezoo.eval.image_paths import LIST, image_paths
    from moezoo.eval.prediction_writers import format_of, prediction_file, prediction_writer
    from moezoo.eval.reading import writes_captions
    from moezoo.hub.files import check_writable

    if inputs.count(LIST) > 1:
        raise ConfigError(f"the input {LIST!r} is given {inputs.count(LIST)} times: standard input can be read once.")
    weights: dict[str, Any] = {"checkpoint": checkpoint, "pretrained": pretrained, "assignments": set_ or ()}
    if features is not None:
        answers = {"--out": out, "--format": format, "--top": top != TOP, "--routing": routing, "--generate": generate}
        for option, given in answers.items():
            if given:
                raise ConfigError(f"{option} has no effect with --features, which writes no answers: leave it out")
        embed_inputs(
            name,
            inputs,
            features,
            recursive=recursive,
            batch_size=batch_size,
            device=device,
            threads=threads,
            allow_missing=allow_missing,
            strict=strict,
            weights=weights,
        )
        return
    if allow_missing:
        raise ConfigError("--allow-missing is of --features FILE.npz")
    format = format_of(out, format)
    if out is not None:
        check_writable(out.parent)
    check_trained(name, checkpoint, pretrained)
    # Counted before, so that the bar knows how far it is; a list on standard input can be read only once.
    total = None if LIST in inputs else sum(1 for _ in image_paths(inputs, recursive=recursive))
    model = trained_model(name, **weights, device=device)
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
