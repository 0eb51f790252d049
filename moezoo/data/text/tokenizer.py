"""From sentences to ids and back: one class for the own vocabulary and for CLIP's."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from tokenizers import Tokenizer as Backend

from moezoo.data.text.checks import check_text
from moezoo.errors import ConfigError, DataError, InputError

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger(__name__)

Kind = Literal["clip", "bpe"]
SPECIALS: dict[Kind, tuple[str, str, str, str]] = {
    "bpe": ("<pad>", "<bos>", "<eos>", "<unk>"),
    "clip": ("<|endoftext|>", "<|startoftext|>", "<|endoftext|>", "<|endoftext|>"),
}
"""What padding, the beginning, the end and the unknown are called in the vocabulary of each kind."""
SHORTEST = 3
"""Tokens of the shortest sequence with something in it: the beginning, one token, the end."""
WORD_END = "</w>"
"""By which CLIP's vocabulary marks the last piece of a word."""


class Tokenizer:
    """Byte-level BPE with a beginning and an end. Immutable; equal where the vocabulary and the rules are.

    Text is composed (NFC), its white space made single spaces, its letters lower-case: see :meth:`normalize`.
    A sentence that spells a special token, such as ``<eos>``, gets the tokens of these letters, never the special one.

    Args:
        content: JSON in the form of the ``tokenizers`` library; :meth:`to_json` gives it.

    Raises:
        DataError: ``content`` is no tokenizer, or lacks the special tokens.
    """

    def __init__(self, content: str):
        self._backend = _backend(content)
        self._backend.encode_special_tokens = True
        self.kind: Kind = _kind(self._backend)
        vocabulary: dict[str, int] = self._backend.get_vocab(with_added_tokens=True)
        ids = [vocabulary[token] for token in SPECIALS[self.kind]]
        self.pad_id, self.bos_id, self.eos_id, self.unk_id = ids
        self.vocab_size: int = 1 + max(vocabulary.values())
        """Rows that an embedding of the ids needs."""
        self._content: str = self._backend.to_str()
        self._warned = False

    def encode(self, texts: Sequence[str], max_len: int, *, pad_to_max_len: bool = False) -> tuple[Tensor, Tensor]:
        """Sentences as ids, each between the beginning and the end.

        Args:
            texts: B sentences with something in them.
            max_len: Longer ones lose tokens before the end, which stays; the first time this happens is logged.
            pad_to_max_len: Make L ``max_len``; otherwise it is the longest sentence's.

        Returns:
            (B, L) int64 ids, and (B, L) bool that is true where a token is, false where padding is.

        Raises:
            InputError: ``texts`` is empty or one string, or a sentence is none, has nothing in it or is no Unicode.
            ConfigError: ``max_len`` is too small.
        """
        return self.pad(self.encode_ids(texts, max_len), max_len if pad_to_max_len else None)

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
        """What :meth:`encode` gives of sentences that are ids already; ``length`` is by default the longest one's."""
        import torch

        length = max(map(len, rows)) if length is None else length
        ids = torch.full((len(rows), length), self.pad_id, dtype=torch.int64)
        mask = torch.zeros((len(rows), length), dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            mask[i, : len(row)] = True
        return ids, mask

    def encode_ids(self, texts: Sequence[str], max_len: int) -> list[list[int]]:
        """:meth:`encode` as plain lists of unequal lengths, without padding."""
        if max_len < SHORTEST:
            raise ConfigError(f"max_len={max_len!r} is not allowed: it must be at least {SHORTEST}.")
        if isinstance(texts, str) or not hasattr(texts, "__len__") or not len(texts):
            raise InputError(f"texts must be a sequence of one or more sentences, got {texts!r:.80}")
        rows = []
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"texts[{i}] must be a sentence with something in it, got {text!r:.80}")
            check_text(text, f"texts[{i}]")
            # One by one: the library's own batches start threads, which forked workers warn about.
            body = self._backend.encode(text, add_special_tokens=False).ids
            if (lost := len(body) + 2 - max_len) > 0:
                self._warn(text, lost, max_len)
            rows.append([self.bos_id, *body[: max_len - 2], self.eos_id])
        return rows

    def decode(self, ids: Tensor | Iterable[Iterable[int]]) -> list[str]:
        """Sentences of (B, L) ids: what stands after the beginning and before the first end, without special tokens.

        Ids of no token are passed over: a model's vocabulary may have room for more than there are.

        Raises:
            InputError: ``ids`` is one row.
        """
        rows: Any = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if any(isinstance(row, int) for row in rows):
            raise InputError(f"ids must be (B, L), rows of ids, got {rows!r:.80}")
        return [self._decode(list(row)) for row in rows]

    def count(self, text: str) -> int:
        """Tokens of a sentence, with its beginning and end."""
        return len(self._backend.encode(text, add_special_tokens=False).ids) + 2

    def normalize(self, text: str) -> str:
        """``text`` as the vocabulary sees it: what a sentence that fits decodes to, but for CLIP's spaces."""
        return str(self._backend.normalizer.normalize_str(text)).strip()

    def to_json(self) -> str:
        """Everything, vocabulary and rules, as the JSON that the ``tokenizers`` library and transformers read."""
        return self._content

    @classmethod
    def from_json(cls, content: str) -> Tokenizer:
        """The tokenizer that :meth:`to_json` wrote; raises :class:`~moezoo.errors.DataError` where it is none."""
        return cls(content)

    def check_fits(self, vocab_size: int) -> None:
        """Raise :class:`ConfigError` if ids may be larger than a model of ``vocab_size`` takes."""
        if self.vocab_size > vocab_size:
            raise ConfigError(
                f"the {self.kind} tokenizer has {self.vocab_size:,} tokens, the model vocab_size={vocab_size:,}: it "
                f"must be at least {self.vocab_size:,}."
            )

    def _decode(self, row: list[int]) -> str:
        if self.bos_id in row:
            row = row[row.index(self.bos_id) + 1 :]
        if self.eos_id in row:
            row = row[: row.index(self.eos_id)]
        special = {self.pad_id, self.bos_id, self.eos_id, self.unk_id}
        kept = [i for i in row if i not in special and 0 <= i < self.vocab_size]
        text = self._backend.decode(kept) if kept else ""
        return (text.replace(WORD_END, " ") if self.kind == "clip" else text).strip()

    def _warn(self, text: str, lost: int, max_len: int) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "a sentence is longer than max_len=%d: %d tokens of %r are lost; further ones are cut silently",
                max_len, lost, text if len(text) <= 80 else f"{text[:77]}...",
            )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def __repr__(self) -> str:
        return f"Tokenizer(kind={self.kind!r}, vocab_size={self.vocab_size})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Tokenizer, (self._content,)

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return self


def _backend(content: str) -> Backend:
    try:
        json.loads(content)
        backend = Backend.from_str(content)
        backend.no_padding()
        backend.no_truncation()
        return backend
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:  # the library raises plain Exception, and panics that are no Exception at all
        raise DataError(f"no tokenizer of the tokenizers library: {error!s:.200}") from None


def _kind(backend: Backend) -> Kind:
    kinds: tuple[Kind, ...] = ("bpe", "clip")
    for kind in kinds:
        if all(backend.token_to_id(token) is not None for token in SPECIALS[kind]):
            if backend.normalizer is None or backend.pre_tokenizer is None or backend.decoder is None:
                raise DataError("the tokenizer lacks its normalizer, pre_tokenizer or decoder")
            return kind
    wanted = " or ".join(", ".join(dict.fromkeys(SPECIALS[kind])) for kind in kinds)
    raise DataError(f"the tokenizer has no special tokens {wanted}")
