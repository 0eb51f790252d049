"""Text for models that read it: tokenizers, and sentences about the classes of a data set. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moezoo.lazy import lazy_names

_EXPORTS = {
    "Tokenizer": ".tokenizer",
    "make_tokenizer": ".make",
    "train_bpe": ".bpe",
    "clip_tokenizer": ".clip",
    "CLIP_SIZE": ".clip",
    "class_sentences": ".sentences",
}

if TYPE_CHECKING:
    from moezoo.data.text.bpe import train_bpe
    from moezoo.data.text.clip import CLIP_SIZE, clip_tokenizer
    from moezoo.data.text.make import make_tokenizer
    from moezoo.data.text.sentences import class_sentences
    from moezoo.data.text.tokenizer import Tokenizer

__all__ = ["Tokenizer", "make_tokenizer", "train_bpe", "clip_tokenizer", "CLIP_SIZE", "class_sentences"]
__getattr__ = lazy_names(__name__, _EXPORTS)
