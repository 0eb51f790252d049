"""Choosing a tokenizer: CLIP's where it is at hand and fits, else the own one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from typing import Literal

from moezoo.data.text.bpe import train_bpe
from moezoo.data.text.clip import CLIP_SIZE, clip_tokenizer
from moezoo.data.text.tokenizer import Tokenizer
from moezoo.errors import ConfigError, DataError
from moezoo.names import did_you_mean

logger = logging.getLogger(__name__)

KINDS = ("auto", "clip", "bpe")


def make_tokenizer(
    captions: Iterable[str],
    *,
    vocab_size: int,
    kind: Literal["auto", "clip", "bpe"] = "auto",
    clip_path: str | os.PathLike[str] | None = None,
    clip_size: int = CLIP_SIZE,
) -> Tokenizer:
    """A tokenizer whose ids a model of ``vocab_size`` takes.

    Args:
        captions: What the own vocabulary is trained on; pass training sentences only.
        vocab_size: The model's.
        kind: ``"clip"`` is CLIP's vocabulary from this machine's files, ``"bpe"`` the own; ``"auto"`` takes CLIP's
            where it is there, sound and not too large, else the own, and logs why.
        clip_path: Folder of CLIP's files; by default the Hub's cache is looked into.
        clip_size: Tokens that CLIP's vocabulary must have.

    Raises:
        ConfigError: ``kind`` is unknown, or ``vocab_size`` too small for the tokenizer.
        DataError: ``kind="clip"``, and its files are missing, damaged or of another size.
        InputError: The captions hold nothing to train on.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind={kind!r} is not allowed.{did_you_mean(str(kind), KINDS)} Allowed: {', '.join(KINDS)}.")
    if kind == "bpe":
        return train_bpe(captions, vocab_size=vocab_size)
    try:
        if vocab_size < clip_size:
            raise ConfigError(
                f"vocab_size={vocab_size:,} is too small for CLIP's tokenizer of {clip_size:,} tokens: it must be at "
                f"least {clip_size:,}, or kind='bpe'."
            )
        tokenizer = clip_tokenizer(clip_path, size=clip_size)
    except (ConfigError, DataError) as error:
        if kind == "clip":
            raise
        logger.info("CLIP's tokenizer is not used: %s", error)
        return train_bpe(captions, vocab_size=vocab_size)
    logger.info("CLIP's tokenizer: %d tokens", tokenizer.vocab_size)
    return tokenizer
