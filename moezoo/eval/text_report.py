"""What a model that also reads text knows from the image alone, and how much the right sentence would tell it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from moezoo.errors import InputError
from moezoo.eval.answers import answered, check_answers, logits_of
from moezoo.eval.batches import labelled_batches
from moezoo.eval.reading import class_prototypes, label_text_logits, zero_shot_logits
from moezoo.moe.modes import evaluating

logger = logging.getLogger(__name__)

UPPER_BOUND_NOTE = (
    "label_text_upper_bound is no accuracy: the model was fed a sentence made from the true label, which nobody has "
    "for an image whose class is asked for"
)


@dataclass(frozen=True)
class TextReport:
    """Three figures over the same images, as fractions. The first two are accuracies."""

    image_only: float
    """``model(images)``."""
    zero_shot: float
    """The class whose sentences lie nearest to the image; see :func:`zero_shot`."""
    label_text_upper_bound: float
    """How often ``model(images, sentence of the true class)`` names that class: the answer is in the question."""
    note: str = UPPER_BOUND_NOTE


def text_report(image_only: Tensor, zero_shot: Tensor, label_text: Tensor, labels: Tensor) -> TextReport:
    """The report from (N, C) logits of each kind and (N,) true classes; a warning says what the last one is not.

    Raises:
        InputError: Shapes do not fit, or a label is not from 0 to C - 1.
    """
    logger.warning("%s", UPPER_BOUND_NOTE)
    alone, nearest, told = (_right(logits, labels) / len(labels) for logits in (image_only, zero_shot, label_text))
    return TextReport(alone, nearest, told)


def evaluate_text(
    model: nn.Module,
    dataset: Dataset,
    class_sentences: Sequence[Sequence[str]],
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> TextReport:
    """Classify every image alone, by the classes' sentences, and beside a sentence of its true class.

    Args:
        model: With ``encode_image``, ``encode_text`` and a tokenizer. Run in evaluation mode, and left as it was.
        dataset: Items ``(image, label)``.
        class_sentences: For each class at least one sentence that describes it.
        batch_size: Images per forward.
        num_workers: Processes that read the images; 0 reads them here.
        progress: Called after every batch with its number of images.

    Raises:
        ConfigError: The model has no tokenizer, or one that does not fit.
        InputError: The data set is empty, a class has no sentence, a label no class, or the model does not answer with
            (B, classes) logits of the same classes.
    """
    prototypes = class_prototypes(model, class_sentences)
    found: list[tuple[Tensor, ...]] = []
    with evaluating(model):
        for images, labels in _batches(dataset, batch_size, num_workers, progress):
            nearest = zero_shot_logits(model, images, prototypes)
            check_answers(nearest, labels)  # before a sentence is looked up by label
            alone = logits_of(model, images)
            if alone.shape != nearest.shape:
                raise InputError(
                    f"class_sentences are of {nearest.shape[1]} classes, the model has {alone.shape[1]}: the figures "
                    "would not be among the same"
                )
            told = label_text_logits(model, images, labels, class_sentences)
            found.append((alone, nearest, told, labels))
    return text_report(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def zero_shot(
    model: nn.Module,
    dataset: Dataset,
    class_sentences: Sequence[Sequence[str]],
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> float:
    """Accuracy of naming the class whose sentences lie nearest to the image, by cosine. The label is never seen.

    A class is the mean of its sentences' unit vectors (:func:`class_prototypes`). Arguments as of
    :func:`evaluate_text`; the model needs no head.

    Raises:
        InputError: The data set is empty, a class has no sentence, or a label no class.
    """
    prototypes, right, total = class_prototypes(model, class_sentences), 0, 0
    with evaluating(model):
        for images, labels in _batches(dataset, batch_size, num_workers, progress):
            right += _right(zero_shot_logits(model, images, prototypes), labels)
            total += len(labels)
    return right / total


def _batches(
    dataset: Dataset, batch_size: int, num_workers: int, progress: Callable[[int], None] | None
) -> Iterator[tuple[Tensor, Tensor]]:
    for images, labels in labelled_batches(dataset, batch_size, num_workers):
        yield images, labels
        if progress is not None:
            progress(len(images))


def _right(logits: Tensor, labels: Tensor) -> int:
    """How many rows name their label; one without an answer does not."""
    check_answers(logits, labels)
    return int((torch.where(answered(logits), logits.argmax(-1), -1) == labels).sum())
