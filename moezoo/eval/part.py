"""One part of a data set, judged as its kind asks: classes, sentences or identities to find, captions to write."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from torch import nn

from moezoo.data.captioned import CaptionedSplits
from moezoo.data.reid.splits import ReidSplits
from moezoo.data.splits import Splits
from moezoo.data.text import class_sentences
from moezoo.errors import ConfigError
from moezoo.eval.answers import check_same_classes
from moezoo.eval.captioned import evaluate_captions, evaluate_retrieval
from moezoo.eval.evaluate import Evaluation, evaluate
from moezoo.eval.reading import finds_identities, reads_text, tokenizer_of, writes_captions
from moezoo.eval.reid.evaluate import evaluate_reid
from moezoo.eval.text_report import evaluate_text
from moezoo.moe.checks import check_choice

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")


def evaluate_part(
    model: nn.Module,
    splits: Splits | CaptionedSplits | ReidSplits,
    part: str = "test",
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    metrics: Sequence[str] | None = (),
    sentences: Sequence[Sequence[str]] | None = None,
    generation: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Classification where the data set has labels, identities found again where it has cameras, captions where the
    model writes them, retrieval otherwise.

    A classifier that also reads text gets a :class:`~moezoo.eval.TextReport` beside its accuracy, which is that of the
    images alone.

    Args:
        model: Run in evaluation mode, and left as it was.
        splits: The data set, prepared for the model.
        part: ``"val"`` or ``"test"``, or ``"train"`` with its augmentation.
        batch_size: Images per forward.
        num_workers: Processes that read the images; 0 reads them here.
        metrics: Of a classifier, as in :func:`evaluate`.
        sentences: For each class, for the text report; by default :func:`sentences_for` in English.
        generation: Of a captioner, options of ``caption``.
        progress: Called after every batch with its number of images; :func:`passes` says how often each comes.

    Raises:
        ConfigError: The model is of another data set, does not do what the data set asks, or has no tokenizer for it;
            or the data set has no such part.
        InputError: As of :func:`evaluate`, :func:`evaluate_retrieval`, :func:`evaluate_captions` and
            :func:`evaluate_reid`.
    """
    dataset = getattr(splits, check_choice("part", part, PARTS))
    check_belongs(model, splits)
    shared: dict[str, Any] = {"batch_size": batch_size, "num_workers": num_workers, "progress": progress}
    if isinstance(splits, ReidSplits):
        return evaluate_reid(model, splits, part, **shared)
    if isinstance(splits, CaptionedSplits):
        if writes_captions(model):
            return evaluate_captions(model, dataset, generation=generation, **shared)
        return evaluate_retrieval(model, dataset, **shared)
    sentences = sentences or sentences_for(model, splits)
    report = evaluate(model, dataset, label_names=splits.label_names, metrics=metrics, **shared)
    if sentences is None or not _has_text_report(model):
        return report
    return dataclasses.replace(report, text=evaluate_text(model, dataset, sentences, **shared))


def sentences_for(
    model: nn.Module, splits: Splits | CaptionedSplits | ReidSplits, language: Literal["en", "zh"] = "en"
) -> tuple[tuple[str, ...], ...] | None:
    """Those that :func:`evaluate_part` describes the classes with; ``None`` where it needs none.

    Raises:
        ConfigError: As of :func:`~moezoo.data.text.class_sentences`.
    """
    if not isinstance(splits, Splits) or not _has_text_report(model):
        return None
    return class_sentences(splits.label_names, language)


def passes(model: nn.Module, splits: Splits | CaptionedSplits | ReidSplits) -> int:
    """How often :func:`evaluate_part` reads every image."""
    return 2 if isinstance(splits, Splits) and _has_text_report(model) else 1


def check_belongs(model: nn.Module, splits: Splits | CaptionedSplits | ReidSplits) -> None:
    """Raise :class:`ConfigError` if ``model`` cannot be, or was not, trained on such a data set."""
    told = f"{type(model).__name__} on the data set {splits.name!r}"
    if isinstance(splits, ReidSplits):
        if not finds_identities(model):
            raise ConfigError(
                f"{told}, identities seen by cameras: the model takes no modalities to find them again by"
            )
        check_modalities(model, splits)  # identities differ from set to set: that they are others is no mistake
        return
    if finds_identities(model):
        raise ConfigError(f"{told}, {type(splits).__name__}: the model finds identities again, and names no classes")
    if isinstance(splits, CaptionedSplits):
        if not (writes_captions(model) or reads_text(model)):
            raise ConfigError(f"{told}, images with sentences: the model neither reads nor writes text")
        tokenizer_of(model)
        return
    if writes_captions(model):
        raise ConfigError(f"{told}, images with labels: the model writes captions and names no classes")
    classes = getattr(model, "num_classes", splits.num_classes)
    if classes != splits.num_classes:
        raise ConfigError(f"{told}: the model has {classes} classes, the data set {splits.num_classes}")
    # The sentences of the text report are made of the names.
    check_same_classes(getattr(model, "label_names", None), splits.label_names, strict=reads_text(model))
    if _has_text_report(model):
        tokenizer_of(model)
    elif reads_text(model):
        logger.warning("the model has no tokenizer, so that its accuracy is reported and nothing about text")


def check_modalities(model: nn.Module, splits: ReidSplits) -> None:
    """Raise :class:`ConfigError` unless ``model`` takes the modalities of the data set, in their order."""
    takes = tuple(model.modalities)  # type: ignore[arg-type]
    if takes != splits.modalities:
        raise ConfigError(
            f"modalities={takes!r} of the model do not fit the data set {splits.name!r}, which has "
            f"{splits.modalities!r}."
        )


def _has_text_report(model: nn.Module) -> bool:
    return reads_text(model) and getattr(model, "tokenizer", None) is not None
