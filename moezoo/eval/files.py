"""Classifying or captioning image files, in order and in constant memory; one that cannot be read is passed over."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.data.images import read_image
from moezoo.errors import ConfigError, InputError, UnreadableImage
from moezoo.eval.answers import answered, logits_of, placed
from moezoo.eval.image_transform import image_transform
from moezoo.eval.read_ahead import batches_ahead
from moezoo.eval.reading import checked_generation, finds_identities, tokenizer_of, writes_captions
from moezoo.eval.routing import image_shares
from moezoo.moe.checks import check_int
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing

NOT_FINITE = "the model's answer is not finite (NaN)"


@dataclass(frozen=True)
class Prediction:
    """What the model says about one file."""

    path: str
    """As it was given."""
    labels: tuple[str, ...] = ()
    """The most probable classes, the best first; empty where there is an ``error``."""
    probabilities: tuple[float, ...] = ()
    """Theirs."""
    error: str | None = None
    """Why there is no answer: the file cannot be read, or the answer was not finite."""
    caption: str | None = None
    """What a captioner wrote, empty where there is an ``error``; ``None`` from a classifier."""
    routing: Mapping[str, tuple[float, ...]] | None = None
    """MoE layer to the share of the image's tokens that each expert got, where that was asked for."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        pairs = zip(self.labels, self.probabilities, strict=True)
        predictions = [{"label": label, "probability": probability} for label, probability in pairs]
        said = {"predictions": predictions} if self.caption is None else {"caption": self.caption}
        data: dict[str, Any] = {"path": self.path, **said, "error": self.error}
        if self.routing is not None:
            data["routing"] = {layer: [round(share, 6) for share in shares] for layer, shares in self.routing.items()}
        return data


def predict_files(
    model: nn.Module,
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    top: int = 5,
    batch_size: int = 32,
    label_names: Sequence[str] | None = None,
    transform: Callable[[Any], Tensor] | None = None,
    routing: bool = False,
    threads: int = 4,
    generation: Mapping[str, Any] | None = None,
) -> Iterator[Prediction]:
    """One :class:`Prediction` for every path, in their order.

    At most two batches are held: the one the model answers, and the next one, which is read meanwhile. ``paths`` may
    be endless. The model is run in evaluation mode, and between the batches left as it was.

    Args:
        model: (B, C, H, W) images to (B, classes) logits, or to a mapping that has them; or a captioner.
        paths: Image files, or one.
        top: Classes to name, at most; fewer where the model has fewer.
        batch_size: Images per forward.
        label_names: One per class; by default ``model.label_names``, else the class numbers.
        transform: RGB image of Pillow to (C, H, W) tensor; by default :func:`image_transform` of the model.
        routing: Also say which share of an image's tokens each expert got.
        threads: Files read at the same time.
        generation: Of a captioner, options of its ``caption``.

    Raises:
        ConfigError: An argument is out of range, the model does not say how its images are prepared, or is a captioner
            without its tokenizer.
        InputError: The model does not answer with (B, classes) logits, or has not one class per label.
    """
    check_int("top", top, low=1)
    check_int("batch_size", batch_size, low=1)
    check_int("threads", threads, low=1)
    # Not inside the generator, where a mistake would wait until the first prediction is asked for.
    if writes_captions(model):
        tokenizer_of(model)
        checked_generation(generation or {})
    elif generation:
        raise ConfigError(f"generation={dict(generation)!r} is not allowed: the model writes no captions.")
    elif finds_identities(model):
        raise ConfigError(
            "the model finds identities again and names no classes: embed_files (moezoo predict --features FILE.npz) "
            "gives its features."
        )
    elif getattr(model, "num_classes", None) == 0:
        raise ConfigError("num_classes=0 is not allowed here: the model gives features, no classes to predict.")
    transform = transform or image_transform(model)
    names = label_names if label_names is not None else getattr(model, "label_names", None)

    def predictions() -> Iterator[Prediction]:
        source = [paths] if isinstance(paths, (str, os.PathLike)) else paths
        with closing(batches_ahead(source, partial(_read, transform), batch_size=batch_size, threads=threads)) as ahead:
            for read in ahead:
                yield from _answer(model, read, top, names, routing, generation or {})

    return predictions()


def _read(transform: Callable[[Any], Tensor], path: str) -> Tensor | str:
    """The prepared image, or why there is none."""
    try:
        return transform(read_image(path))
    except UnreadableImage as error:
        return error.reason or str(error)


def _answer(
    model: nn.Module,
    read: list[tuple[str, Tensor | str]],
    top: int,
    names: Sequence[str] | None,
    routing: bool,
    generation: Mapping[str, Any],
) -> list[Prediction]:
    """The predictions of one batch."""
    images = [image for _, image in read if isinstance(image, Tensor)]
    rows: Iterator[dict[str, Any]] = iter(())
    if images:
        with evaluating(model), ExitStack() as stack:
            records = stack.enter_context(record_routing(model)) if routing else []
            batch = torch.stack(images)
            said = (
                model.caption(placed(model, batch), **generation)  # type: ignore[operator]
                if writes_captions(model)
                else logits_of(model, batch)
            )
        shares = _shares(records, len(images)) if routing else [None] * len(images)
        found = _rows(said, top, names) if isinstance(said, Tensor) else ({"caption": caption} for caption in said)
        rows = ({**row, "routing": share} for row, share in zip(found, shares, strict=True))
    caption = "" if writes_captions(model) else None
    return [
        Prediction(path, **next(rows)) if isinstance(image, Tensor) else Prediction(path, error=image, caption=caption)
        for path, image in read
    ]


def _rows(logits: Tensor, top: int, names: Sequence[str] | None) -> Iterator[dict[str, Any]]:
    classes = logits.shape[1]
    if classes == 0 or (names is not None and len(names) != classes):
        raise InputError(f"the model has {classes} classes, and {0 if names is None else len(names)} labels were given")
    fine = answered(logits).tolist()
    best = logits.softmax(-1).topk(min(top, classes))
    for index, (chosen, probabilities) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
        if fine[index]:
            labels = tuple(str(i if names is None else names[i]) for i in chosen)
            yield {"labels": labels, "probabilities": tuple(probabilities)}
        else:
            yield {"error": NOT_FINITE}


def _shares(records: list[RoutingRecord], images: int) -> list[Mapping[str, tuple[float, ...]]]:
    """For every image, layer to shares; a layer called several times has the mean of its calls."""
    layers: dict[str, list[Tensor]] = {}
    for record in records:
        shares = image_shares(record.routing, images)
        if shares is not None:
            layers.setdefault(record.name, []).append(shares)
    means = {name: torch.stack(calls).mean(0).tolist() for name, calls in layers.items()}
    return [{name: tuple(rows[i]) for name, rows in means.items()} for i in range(images)]
