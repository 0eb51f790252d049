"""What a model that reads or writes text makes of sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError, InputError
from moezoo.eval.answers import checked_logits, placed
from moezoo.moe.modes import evaluating

if TYPE_CHECKING:
    from moezoo.data.text import Tokenizer


def reads_text(model: nn.Module) -> bool:
    """Whether ``model`` has an encoder of sentences."""
    return bool(getattr(model, "takes_text", False))


def writes_captions(model: nn.Module) -> bool:
    """Whether ``model`` is a captioner."""
    return callable(getattr(model, "generate", None)) and callable(getattr(model, "caption", None))


def finds_identities(model: nn.Module) -> bool:
    """Whether ``model`` takes images in one or several modalities and gives features to find identities again by."""
    return bool(getattr(model, "modalities", None))


def tokenizer_of(model: nn.Module) -> Tokenizer:
    """The model's tokenizer.

    Raises:
        ConfigError: It has none, or one with more tokens than the model knows.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ConfigError(
            f"{type(model).__name__} has no tokenizer: load a stored model that has a tokenizer.json, or set "
            "model.tokenizer to the one it was trained with"
        )
    size = getattr(getattr(model, "moezoo_config", None), "vocab_size", None)
    if size is not None:
        tokenizer.check_fits(size)
    return tokenizer


def check_encodes(model: nn.Module) -> None:
    """Raise :class:`ConfigError` unless ``model`` encodes images and, by a tokenizer that fits, sentences."""
    if not all(callable(getattr(model, method, None)) for method in ("encode_image", "encode_text")):
        raise ConfigError(f"{type(model).__name__} has no encode_image and encode_text to compare images and text by")
    tokenizer_of(model)


def checked_generation(options: Mapping[str, Any]) -> Mapping[str, Any]:
    """``options`` for a captioner's ``caption``, which itself checks those of the search.

    Raises:
        ConfigError: The images are among them, or a generator that is none, as a command line would give.
    """
    if "images" in options:
        raise ConfigError(f"generation: images={options['images']!r:.80} is not allowed: it is no option.")
    generator = options.get("generator")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ConfigError(f"generation: generator={generator!r:.80} is not allowed: it must be a torch.Generator.")
    return options


def max_text_len(model: nn.Module) -> int:
    """Tokens of the longest text that ``model`` takes; CLIP's 77 where it does not say."""
    return getattr(getattr(model, "moezoo_config", None), "max_text_len", 77)


def text_of(model: nn.Module, sentences: Sequence[str]) -> tuple[Tensor, Tensor]:
    """(B, L) int64 ids of ``sentences`` and (B, L) bool, true where a token is, both on the model's device.

    Sentences longer than the model's ``max_text_len`` are cut.

    Raises:
        ConfigError: The model has no tokenizer, or one that does not fit.
        InputError: A sentence is empty.
    """
    ids, mask = tokenizer_of(model).encode(sentences, max_text_len(model))
    device = next((p.device for p in model.parameters()), ids.device)
    return ids.to(device), mask.to(device)


def encode_images(model: nn.Module, images: Tensor) -> Tensor:
    """(B, D) float32 features on the CPU, for comparison by cosine with :func:`encode_texts`."""
    return _features(model.encode_image(placed(model, images)), "encode_image", len(images))  # type: ignore[operator]


def encode_texts(
    model: nn.Module,
    sentences: Iterable[str],
    *,
    batch_size: int = 256,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """(M, D) float32 features on the CPU of all ``sentences``; one that comes twice is encoded once.

    The model is run in evaluation mode, and left as it was.

    Raises:
        ConfigError: The model has no tokenizer, or one that does not fit.
        InputError: A sentence is empty, or there is none.
    """
    number: dict[str, int] = {}
    order = [number.setdefault(sentence, len(number)) for sentence in sentences]
    distinct, found = list(number), []
    if not distinct:
        raise InputError("there is no sentence to encode")
    with evaluating(model):
        for begin in range(0, len(distinct), batch_size):
            part = distinct[begin : begin + batch_size]
            found.append(_features(model.encode_text(*text_of(model, part)), "encode_text", len(part)))  # type: ignore[operator]
            if progress is not None:
                progress(len(part))
    return torch.cat(found)[torch.tensor(order)]


def class_prototypes(model: nn.Module, class_sentences: Sequence[Sequence[str]]) -> Tensor:
    """(C, D) unit vectors: each class's mean over its sentences' features, every sentence counting alike.

    Args:
        model: With ``encode_text`` and a tokenizer.
        class_sentences: For each class at least one sentence that describes it.

    Raises:
        ConfigError: The model does not encode images and text, has no tokenizer, or one that does not fit.
        InputError: A class has no sentence.
    """
    check_encodes(model)
    for index, own in enumerate(class_sentences):
        if isinstance(own, str) or not own:
            raise InputError(f"class_sentences[{index}] must be one or more sentences, got {own!r:.80}")
    features = encode_texts(model, [sentence for own in class_sentences for sentence in own])
    parts = F.normalize(features, dim=-1).split([len(own) for own in class_sentences])
    return F.normalize(torch.stack([part.mean(0) for part in parts]), dim=-1)


def zero_shot_logits(model: nn.Module, images: Tensor, prototypes: Tensor) -> Tensor:
    """(B, C) cosines, on the CPU, of the images and the classes' :func:`class_prototypes`.

    The model is run in evaluation mode, and left as it was.
    """
    with evaluating(model):
        return F.normalize(encode_images(model, images), dim=-1) @ prototypes.T


def label_text_logits(
    model: nn.Module, images: Tensor, labels: Tensor, class_sentences: Sequence[Sequence[str]]
) -> Tensor:
    """(B, C) float32 logits, on the CPU, of the images beside the first sentence of each one's true class.

    The answer is in the question: what these logits get right is an upper bound, never an accuracy.
    """
    images = placed(model, images)
    labels = labels.to(images.device)
    told = (each[labels] for each in text_of(model, [own[0] for own in class_sentences]))
    return checked_logits(model, model(images, *told), len(images))


def _features(output: Any, method: str, expected: int) -> Tensor:
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != expected:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{method} must give {expected} features as (B, D), got {got}")
    return output.float().cpu()
