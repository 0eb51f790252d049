"""The features of image files: of a folder of any size, in batches and in constant memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.data.images import read_image
from moezoo.errors import ConfigError, InputError, UnreadableImage
from moezoo.eval.answers import placed
from moezoo.eval.feature_file import feature_file
from moezoo.eval.files import NOT_FINITE
from moezoo.eval.image_paths import image_paths
from moezoo.eval.image_transform import image_transform
from moezoo.eval.read_ahead import batches_ahead
from moezoo.eval.reading import encode_images, finds_identities
from moezoo.eval.sightings import SightingReader, sighting_paths
from moezoo.moe.checks import check_int
from moezoo.moe.modes import evaluating

AnyPath = str | os.PathLike[str]


@dataclass(frozen=True)
class Embedded:
    """What became of one file."""

    path: str
    """As it was given or found."""
    features: Tensor | None
    """(D,) float32; ``None`` where there is an ``error``."""
    error: str | None = None
    """Why there are none: the file cannot be read, a modality is missing, or the answer was not finite."""


@dataclass(frozen=True)
class Embeddings:
    """The features of several files."""

    features: Tensor
    """(N, D) float32, on the CPU."""
    paths: tuple[str, ...]
    """Of each row."""
    failures: tuple[tuple[str, str], ...]
    """Path and reason of the files that have none."""

    def save(self, path: AnyPath) -> Path:
        """Write ``features`` and ``paths`` as a ``.npz`` file of numpy.

        Raises:
            OutputError: It cannot be written.
        """
        with feature_file(path) as write:
            for name, row in zip(self.paths, self.features, strict=True):
                write(name, row)
        return Path(path)


def embed_files(
    model: nn.Module,
    paths: Iterable[AnyPath] | AnyPath,
    *,
    batch_size: int = 32,
    threads: int = 4,
    recursive: bool = False,
    transform: Callable[[Any], Tensor] | None = None,
    allow_missing: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Embeddings:
    """The features of files, of a folder, or of several.

    Of a model for re-identification they are what it compares sightings by; of one that encodes images beside text,
    those it compares with sentences; of another what its classifier sees. One that takes several modalities finds the
    siblings of a file by the folders they lie in (``RGB``, ``NI``, ``TI`` or ``vis``, ``ni``, ``th``).

    Args:
        model: Run in evaluation mode, and left as it was.
        paths: Files and folders, or one of them.
        batch_size: Images per forward.
        threads: Files read at the same time.
        recursive: Search the folders in a folder too.
        transform: RGB image of Pillow to (C, H, W) tensor; by default the model's own. Not of several modalities.
        allow_missing: Of several modalities: embed sightings that lack some by the others.
        progress: Called after every batch with its number of files.

    Raises:
        ConfigError: An argument is out of range, or the model gives no features.
        DataError: A folder cannot be read or holds no image.
        InputError: No file has features.
    """
    given = [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)
    found = found_paths(model, [os.fspath(path) for path in given], recursive=recursive)
    rows, names, failures = [], [], []
    for each in embed_stream(
        model,
        found,
        batch_size=batch_size,
        threads=threads,
        transform=transform,
        allow_missing=allow_missing,
        progress=progress,
    ):
        if each.features is None:
            failures.append((each.path, each.error or ""))
        else:
            rows.append(each.features)
            names.append(each.path)
    if not rows:
        first = f", the first: {failures[0][0]} {failures[0][1]}" if failures else ""
        raise InputError(f"none of {len(failures)} files has features{first}")
    return Embeddings(torch.stack(rows), tuple(names), tuple(failures))


def found_paths(model: nn.Module, inputs: list[str], *, recursive: bool = False, lines: Any = None) -> Iterator[str]:
    """One path for everything that ``model`` embeds: an image, or a sighting in several modalities."""
    if finds_identities(model):
        return sighting_paths(inputs, model.modalities, recursive=recursive, lines=lines)  # type: ignore[arg-type]
    return image_paths(inputs, recursive=recursive, lines=lines)


def embed_stream(
    model: nn.Module,
    paths: Iterable[AnyPath],
    *,
    batch_size: int = 32,
    threads: int = 4,
    transform: Callable[[Any], Tensor] | None = None,
    allow_missing: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Embedded]:
    """:func:`embed_files` of files one by one, in their order: no more than two batches are held."""
    check_int("batch_size", batch_size, low=1)
    check_int("threads", threads, low=1)
    several = finds_identities(model)
    if several and transform is not None:
        raise ConfigError("transform= is not allowed of a model that takes modalities: they are prepared together.")
    if allow_missing and not several:
        raise ConfigError(f"allow_missing=True is of models that take modalities, not of {type(model).__name__}.")
    read: Callable[[str], Any]
    read = (
        SightingReader(model, allow_missing=allow_missing) if several else _Reader(transform or image_transform(model))
    )
    ask = _asks(model)

    def stream() -> Iterator[Embedded]:
        ahead = batches_ahead(paths, partial(_tried, read), batch_size=batch_size, threads=threads)
        with closing(ahead):
            for batch in ahead:
                items = [item for _, item in batch if not isinstance(item, str)]
                rows = iter(_rows(model, ask, items))
                for path, item in batch:
                    yield Embedded(path, None, item) if isinstance(item, str) else _embedded(path, next(rows))
                if progress is not None:
                    progress(len(batch))

    return stream()


class _Reader:
    def __init__(self, transform: Callable[[Any], Tensor]):
        self.transform = transform

    def __call__(self, path: str) -> tuple[Tensor]:
        return (self.transform(read_image(path)),)


def _tried(read: Callable[[str], Any], path: str) -> Any:
    """The prepared images, or why there are none."""
    try:
        return read(path)
    except UnreadableImage as error:
        return f"{error.path} {error.reason}" if error.path != path and error.reason else error.reason or str(error)


def _asks(model: nn.Module) -> Callable[..., Tensor]:
    """How ``model`` is asked for features."""
    if finds_identities(model):
        return lambda images, present: model(
            placed(model, images), None if present.all() else present.to(placed(model, images[:0]).device)
        )
    if callable(getattr(model, "encode_image", None)):
        return lambda images: encode_images(model, images)
    if callable(getattr(model, "forward_features", None)) and callable(getattr(model, "forward_head", None)):
        head: Any = model
        return lambda images: head.forward_head(head.forward_features(placed(model, images)), pre_logits=True)
    raise ConfigError(
        f"{type(model).__name__} gives no features: it has neither modalities, encode_image, nor forward_features and "
        "forward_head."
    )


def _rows(model: nn.Module, ask: Callable[..., Tensor], items: list[tuple[Tensor, ...]]) -> Tensor | tuple[()]:
    if not items:
        return ()
    with evaluating(model):
        features = ask(*(torch.stack(column) for column in zip(*items, strict=True)))
    if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(items):
        got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"{type(model).__name__} must give {len(items)} features as (B, D), got {got}")
    return features.float().cpu()


def _embedded(path: str, row: Tensor) -> Embedded:
    return Embedded(path, row) if row.isfinite().all() else Embedded(path, None, NOT_FINITE)
