"""``moezoo predict --features``: the features of image files, in one file of numpy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer


def embed_inputs(
    name: str,
    inputs: Sequence[str],
    out: Path,
    *,
    recursive: bool,
    batch_size: int,
    device: str,
    threads: int,
    allow_missing: bool,
    strict: bool,
    weights: dict[str, Any],
) -> None:
    """Embed behind a bar, row by row into ``out``; a file without features is reported and passed over.

    Args:
        name: The model's.
        inputs: Files, folders, or ``-`` for a list on standard input.
        out: The ``.npz`` file.
        weights: Arguments of :func:`~moezoo.cli.weights.trained_model`.

    Raises:
        ConfigError: ``out`` has another ending, or the model gives no features.
        DataError: The list on standard input is empty.
        Exit: No file has features, or under ``strict`` one has not.
    """
    import sys

    from rich.console import Console

    from moezoo.cli.counting import counted
    from moezoo.cli.weights import trained_model
    from moezoo.errors import ConfigError, DataError
    from moezoo.eval.embed import embed_stream, found_paths
    from moezoo.eval.feature_file import feature_file
    from moezoo.eval.image_paths import LIST
    from moezoo.hub.files import check_writable

    if out.suffix != ".npz":
        raise ConfigError(f"--features {str(out)!r} is not allowed: the file must end in .npz.")
    check_writable(out.parent)
    model = trained_model(name, **weights, device=device)
    given, console = list(inputs), Console(stderr=True, soft_wrap=True)
    # Counted before, so that the bar knows how far it is; a list on standard input can be read only once.
    total = None if LIST in given else sum(1 for _ in found_paths(model, given, recursive=recursive))
    images = failures = 0
    with counted("features", total) as progress, feature_file(out) as write:
        for each in embed_stream(
            model,
            found_paths(model, given, recursive=recursive, lines=sys.stdin.buffer),
            batch_size=batch_size,
            threads=threads,
            allow_missing=allow_missing,
            progress=progress,
        ):
            images += 1
            if each.features is not None:
                write(each.path, each.features)
            else:
                failures += 1
                console.print(f"{each.path}: {each.error}", style="red", markup=False, highlight=False)
        if images == 0:
            raise DataError("no image was given: the list on standard input is empty")
    if failures:
        console.print(f"{failures:,} of {images:,} images have no features", style="yellow", highlight=False)
    console.print(f"  {out}", markup=False, highlight=False)
    if failures == images or (strict and failures):
        raise typer.Exit(1)
