"""Text for models that read it: tokenizers, and sentences about the classes of a data set. No torch at import."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_EXPORTS = {
    "Tokenizer": "moezoo.data.text.tokenizer",
    "make_tokenizer": "moezoo.data.text.make",
    "train_bpe": "moezoo.data.text.bpe",
    "clip_tokenizer": "moezoo.data.text.clip",
    "CLIP_SIZE": "moezoo.data.text.clip",
    "class_sentences": "moezoo.data.text.sentences",
}

if TYPE_CHECKING:
    from moezoo.data.text.bpe import train_bpe
    from moezoo.data.text.clip import CLIP_SIZE, clip_tokenizer
    from moezoo.data.text.make import make_tokenizer
    from moezoo.data.text.sentences import class_sentences
    from moezoo.data.text.tokenizer import Tokenizer

__all__ = ["Tokenizer", "make_tokenizer", "train_bpe", "clip_tokenizer", "CLIP_SIZE", "class_sentences"]


def __getattr__(name: str) -> Any:
    if name in _EXPORTS:
        return getattr(importlib.import_module(_EXPORTS[name]), name)
    raise AttributeError(f"module 'moezoo.data.text' has no attribute {name!r}")
