"""What a model makes of a few test images: everything that the pictures of single images show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from moezoo.backbones.attention import record_attention
from moezoo.data import CaptionedSplits, Splits
from moezoo.data.text import class_sentences
from moezoo.eval.answers import logits_of, placed
from moezoo.eval.captioned import captioned_batches, greedy
from moezoo.eval.reading import reads_text, text_of
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing
from moezoo.viz.decisions import Box
from moezoo.viz.layers import over_images
from moezoo.viz.looking import Words, attention_over_images, attention_words, similar_words


@dataclass(frozen=True)
class Look:
    """B test images, seen by a model."""

    pixels: Tensor
    """(B, C, H, W) in [0, 1]."""
    titles: list[str]
    wrong: list[bool] | None
    """Whether the model is mistaken; ``None`` where it was asked nothing that could be."""
    records: list[RoutingRecord]
    """Of the layers whose tokens lie on the images, each one's first call."""
    attention: dict[str, Tensor]
    """Layer to (B, rows, columns)."""
    words: Words | None
    """Which words look where."""
    labels: list[int] = field(default_factory=list)
    probabilities: Tensor | None = None
    """(B, classes) of a classifier."""
    written: list[str] | None = None
    """B sentences of a captioner, as it is evaluated: the most probable next word each time."""
    references: list[tuple[str, ...]] = field(default_factory=list)
    boxes: list[Box] | None = None
    """Where the thing to be found is, of a data set that knows it."""


def look(model: nn.Module, splits: Splits | CaptionedSplits, images: int = 8, *, language: str = "en") -> Look:
    """Show ``model`` that many test images, of a classification one class after the other.

    A classifier answers of the images alone. If it also reads text, it is shown them once more with a sentence about
    their true classes, to see which words look where.

    Args:
        model: Run in evaluation mode, and left as it was.
        splits: What it was trained on.
        images: How many.
        language: Of the sentences about classes.
    """
    with evaluating(model):
        if isinstance(splits, CaptionedSplits):
            return _captioned(model, splits, images)
        return _classified(model, splits, examples(splits.test, images), language)


def look_at(model: nn.Module, splits: Splits, indices: Sequence[int]) -> Look:
    """The same of a classifier and the test images of those numbers."""
    with evaluating(model):
        return _classified(model, splits, indices)


def _classified(model: nn.Module, splits: Splits, indices: Sequence[int], language: Any = None) -> Look:
    items = [splits.test[i] for i in indices]
    batch, labels = torch.stack([image for image, _ in items]), [label for _, label in items]
    with record_routing(model) as records, record_attention(model) as attention:
        probabilities = logits_of(model, batch).softmax(-1)
    names, predicted = splits.label_names, probabilities.argmax(-1).tolist()
    words = None
    if language is not None and _speaks(model):
        sentences = [class_sentences(names, language)[label][0] for label in labels]
        ids, mask = text_of(model, sentences)
        with record_attention(model) as told:
            model(placed(model, batch), ids, mask)
        words = attention_words(model, told, ids, mask, title="Attention of the image to a sentence of its true class")
    return Look(
        pixels=splits.to_pixels(batch),
        titles=[
            names[true] if true == guess else f"{names[true]} read as {names[guess]}"
            for true, guess in zip(labels, predicted, strict=True)
        ],
        wrong=[true != guess for true, guess in zip(labels, predicted, strict=True)],
        records=over_images(records),
        attention=attention_over_images(attention),
        words=words,
        labels=labels,
        boxes=boxes_of(splits.test, indices),
        probabilities=probabilities,
    )


def _captioned(model: nn.Module, splits: CaptionedSplits, images: int) -> Look:
    batch, references = first_captioned(splits.test, images)
    shown, written = placed(model, batch), None
    sentences = [own[0] for own in references]
    if hasattr(model, "caption"):
        written = list(model.caption(shown, **greedy(model)))  # type: ignore[operator]
        sentences = [sentence if sentence.strip() else own for sentence, own in zip(written, sentences, strict=True)]
    ids, mask = text_of(model, sentences)
    with record_routing(model) as records, record_attention(model) as attention:
        output = model(shown, ids, mask)
    if written is not None:
        words = attention_words(
            model, attention, ids, mask, title="Where the captioner looks as it writes a word", ahead=1
        )
    else:  # what retrieval compares; its fusion is not trained
        words = similar_words(model, output, ids, mask)
    return Look(
        pixels=splits.to_pixels(batch),
        titles=sentences,
        wrong=None,
        records=over_images(records),
        attention=attention_over_images(attention),
        words=words,
        written=written,
        references=references,
    )


def examples(dataset: Dataset, count: int) -> list[int]:
    """The numbers of the first images of the data set, taking the classes in turn so that all of them are seen."""
    by_class: dict[int, list[int]] = {}
    for i in range(min(len(dataset), 50 * count)):  # type: ignore[arg-type]
        by_class.setdefault(dataset[i][1], []).append(i)
    turns = [(turn, label) for label, own in by_class.items() for turn in range(len(own))]
    return [by_class[label][turn] for turn, label in sorted(turns)[:count]]


def boxes_of(dataset: Dataset, indices: Sequence[int]) -> list[Box] | None:
    """Where the thing to be found is in these images, if the data set says so by ``box(index)``."""
    box = getattr(dataset, "box", None)
    return [box(i) for i in indices] if callable(box) else None


def first_captioned(dataset: Dataset, count: int) -> tuple[Tensor, list[tuple[str, ...]]]:
    """The first images of a captioned data set, and the sentences of each."""
    count = min(count, len(dataset))  # type: ignore[arg-type]
    return next(captioned_batches(Subset(dataset, range(count)), count))


def _speaks(model: nn.Module) -> bool:
    return reads_text(model) and getattr(model, "tokenizer", None) is not None
