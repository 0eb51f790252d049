"""The own vocabulary: byte-level BPE, trained on the captions at hand."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterable, Iterator

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from moezoo.data.text.checks import check_text
from moezoo.data.text.tokenizer import SPECIALS, Tokenizer
from moezoo.errors import ConfigError, InputError

logger = logging.getLogger(__name__)

FEW = 1000
"""With fewer different captions every word becomes a token; with more, only pieces that occur twice or more."""


def train_bpe(captions: Iterable[str], *, vocab_size: int) -> Tokenizer:
    """A vocabulary of at most ``vocab_size`` tokens, the same whenever and in whatever order the captions come.

    All 256 bytes are in it where there is room, so any text in any script can be written; in a smaller vocabulary those
    of the captions are, and others become the unknown token. Padding, beginning, end, unknown are the ids 0, 1, 2, 3.

    Args:
        captions: Sentences; repeated ones count once.
        vocab_size: The most that the model can take.

    Raises:
        InputError: No caption has anything in it, or one is no sentence.
        ConfigError: ``vocab_size`` is too small for the single characters.
    """
    different = sorted(_sentences(captions))
    if not different:
        raise InputError("captions must have at least one sentence with something in it to train a tokenizer on")
    backend, specials = _untrained(), SPECIALS["bpe"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocab_size < len(specials) + len(alphabet):
        alphabet = sorted(_characters(backend, different))
        if vocab_size < (least := len(specials) + len(alphabet)):
            raise ConfigError(
                f"vocab_size={vocab_size!r} is not allowed: the captions have {len(alphabet)} different characters, "
                f"which with {len(specials)} special tokens is at least {least}."
            )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=1 if len(different) < FEW else 2,
        special_tokens=list(specials),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    with _one_thread():
        backend.train_from_iterator(different, trainer)
    tokenizer = Tokenizer(backend.to_str())
    logger.info("own byte-level BPE tokenizer: %d tokens, trained on %d captions", tokenizer.vocab_size, len(different))
    return tokenizer


def _sentences(captions: Iterable[str]) -> set[str]:
    """The different ones that have something in them."""
    if isinstance(captions, str):
        raise InputError(f"captions must be sentences, got one string {captions!r:.80}")
    found: set[str] = set()
    for caption in captions:
        if not isinstance(caption, str):
            raise InputError(f"captions must be sentences, got {caption!r:.80}")
        check_text(caption, "a caption")
        if caption.strip():
            found.add(caption)
    return found


def _untrained() -> Backend:
    backend = Backend(models.BPE(unk_token=SPECIALS["bpe"][3]))
    backend.normalizer = normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
            normalizers.Lowercase(),
            # The space before it belongs to a word. The first one gets a space too, to be the same token everywhere.
            normalizers.Prepend(" "),
            normalizers.Replace(Regex(r"^ (?=\p{Han})"), ""),
        ]
    )
    # Chinese has no spaces: each character is a word, lest a clause become one.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


def _characters(backend: Backend, captions: list[str]) -> set[str]:
    found: set[str] = set()
    for caption in captions:
        for piece, _ in backend.pre_tokenizer.pre_tokenize_str(backend.normalizer.normalize_str(caption)):
            found.update(piece)
    return found


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Training without the library's threads: a process that used them warns whenever it is forked."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
