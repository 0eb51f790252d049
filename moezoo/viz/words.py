"""From the pieces of a tokenizer to words that can be written beside what they look at."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence


def words_of(ids: Sequence[int], decode: Callable[[Sequence[int]], str]) -> list[tuple[str, list[int]]]:
    """The words of a sentence, each with the places of its tokens.

    A word may be several tokens, and a sign of a language with many of them several tokens too. Where no spaces stand
    between words, every piece is one. What is no word (begin, end, padding, punctuation) is left out.

    Args:
        ids: Token ids of one sentence.
        decode: Text of a sequence of ids.
    """
    words: list[tuple[str, list[int]]] = []
    before, begin = "", 0
    for end in range(1, len(ids) + 1):
        text = decode(ids[:end])
        if text == before and begin == end - 1:
            begin = end  # it says nothing
            continue
        if text.endswith("\ufffd"):
            continue  # bytes of a sign that is not complete
        piece = text[len(before) :] if text.startswith(before) else decode(ids[begin:end])
        places = list(range(begin, end))
        if words and _goes_on(before, piece):
            words[-1] = (words[-1][0] + piece.rstrip(), words[-1][1] + places)
        elif any(sign.isalnum() for sign in piece):
            words.append((piece.strip(), places))
        before, begin = text, end
    return words


def _goes_on(before: str, piece: str) -> bool:
    """Whether ``piece`` is a part of the word that ``before`` ends with."""
    if not before or not piece:
        return False
    return all(sign.isalnum() and unicodedata.east_asian_width(sign) not in "WF" for sign in (before[-1], piece[0]))
