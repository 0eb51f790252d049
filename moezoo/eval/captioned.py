"""Running a model over images with sentences: retrieval and captioning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from moezoo.errors import ConfigError, InputError
from moezoo.eval.answers import placed
from moezoo.eval.batches import check_some, readable
from moezoo.eval.captions import caption_metrics, plain
from moezoo.eval.evaluate import Evaluation
from moezoo.eval.reading import (
    check_encodes,
    checked_generation,
    encode_images,
    encode_texts,
    max_text_len,
    tokenizer_of,
    writes_captions,
)
from moezoo.eval.retrieval import retrieval_metrics
from moezoo.eval.routing import LoadCounter
from moezoo.moe.modes import evaluating
from moezoo.moe.record import record_routing

if TYPE_CHECKING:
    from moezoo.data.text import Tokenizer


def evaluate_retrieval(
    model: nn.Module,
    dataset: Dataset,
    *,
    batch_size: int = 128,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Find the sentences of every image among all sentences, and the images of every sentence among all images.

    Args:
        model: With ``encode_image``, ``encode_text`` and a tokenizer. Run in evaluation mode, and left as it was.
        dataset: Items ``(image, captions)``.
        batch_size: Images, and then different sentences, per forward.
        num_workers: Processes that read the images; 0 reads them here.
        progress: Called after every batch of images with their number.

    Raises:
        ConfigError: The model does not encode images and text, has no tokenizer, or one that does not fit.
        InputError: The data set is empty, an image has no caption, or a feature is NaN or infinite.
    """
    check_encodes(model)  # before the images are encoded for nothing
    images: list[Tensor] = []
    captions: list[Sequence[str]] = []
    load = LoadCounter()
    with evaluating(model):
        for batch, own in captioned_batches(dataset, batch_size, num_workers):
            with record_routing(model) as records:
                images.append(encode_images(model, batch))
            load.add(records)
            captions += own
            if progress is not None:
                progress(len(batch))
    sentences = [sentence for own in captions for sentence in own]
    image_of_text = [index for index, own in enumerate(captions) for _ in own]
    with record_routing(model) as records:
        texts = encode_texts(model, sentences, batch_size=batch_size)
    load.add(records)
    return Evaluation(
        retrieval=retrieval_metrics(torch.cat(images), texts, image_of_text, sentences), routing=load.report()
    )


def evaluate_captions(
    model: nn.Module,
    dataset: Dataset,
    *,
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Evaluation:
    """Write a caption for every image and compare it with its references.

    Args:
        model: With ``caption(images, **options)`` and a tokenizer. Run in evaluation mode, and left as it was.
        dataset: Items ``(image, captions)``.
        generation: Options of ``caption``, in place of those of :func:`greedy`.
        batch_size: Images per forward.
        num_workers: Processes that read the images; 0 reads them here.
        progress: Called after every batch with its number of images.

    Raises:
        ConfigError: The model writes no captions, has no tokenizer, or one that does not fit, or an option is out of
            range.
        InputError: The data set is empty, or an image has no caption.
    """
    if not writes_captions(model):
        raise ConfigError(f"{type(model).__name__} writes no captions: it has no generate and caption")
    tokenizer, options = tokenizer_of(model), {**greedy(model), **checked_generation(generation or {})}
    written: list[str] = []
    references: list[Sequence[str]] = []
    load = LoadCounter()
    with evaluating(model):
        for batch, own in captioned_batches(dataset, batch_size, num_workers):
            with record_routing(model) as records:
                written += model.caption(placed(model, batch), **options)  # type: ignore[operator]
            load.add(records)
            references += own
            if progress is not None:
                progress(len(batch))
    describe = getattr(dataset, "describe", str)
    names = [describe(index) for index in range(len(written))]
    report = caption_metrics(written, references, names, normalize=as_decoded(tokenizer))
    return Evaluation(captions=report, routing=load.report())


def greedy(model: nn.Module) -> dict[str, Any]:
    """Options by which a captioner writes the most probable next word until it says that it is done."""
    return {"num_beams": 1, "min_length": 0, "max_length": max_text_len(model), "no_repeat_ngram_size": 0}


def as_decoded(tokenizer: Tokenizer) -> Callable[[str], str]:
    """A function from a sentence to what ``tokenizer`` would write for it: its letter case and its spaces."""

    def decoded(text: str) -> str:
        if not text.strip():  # nothing was generated
            return ""
        rows = tokenizer.encode_ids([text], tokenizer.count(text))
        if getattr(tokenizer, "unk_id", None) in rows[0][1:-1]:  # which decoding would leave out
            return plain(text)
        return plain(tokenizer.decode(rows)[0])

    return decoded


def captioned_batches(
    dataset: Dataset, batch_size: int, num_workers: int = 0
) -> Iterator[tuple[Tensor, list[tuple[str, ...]]]]:
    """(B, C, H, W) images and the captions of each, in the data set's order.

    Raises:
        InputError: The data set is empty, or its items are no images with captions.
        UnreadableImage: One of its files cannot be read, of a training part too.
    """
    check_some(dataset)
    yield from DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=_collate)


def _collate(items: Sequence[Any]) -> tuple[Tensor, list[tuple[str, ...]]]:
    for _, own in readable(items):
        if isinstance(own, str) or not isinstance(own, Sequence) or not own:
            raise InputError(f"an image's captions must be a sequence of one or more sentences, got {own!r:.80}")
    return torch.stack([image for image, _ in items]), [tuple(own) for _, own in items]
