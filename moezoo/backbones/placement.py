"""Where V-MoE puts its experts, in words: ``last2``, ``every2``. No torch here."""

from __future__ import annotations

import re

from moezoo.errors import ConfigError

_WORD = re.compile(r"(last|every)([1-9][0-9]{0,3})")


def is_placement(word: object) -> bool:
    """Whether ``word`` is ``last<n>`` or ``every<n>``."""
    return isinstance(word, str) and _WORD.fullmatch(word) is not None


def placed_blocks(word: str, depth: int) -> tuple[int, ...]:
    """The blocks that ``word`` means in a stack of ``depth``, ascending (Riquelme et al. 2021, "V-MoE", section 3.2).

    ``every<n>``: every n-th block, the n-th first: of 12, ``every2`` is 1, 3, 5, 7, 9, 11. ``last<n>``: the last n of
    every second block, not of all: of 8, ``last2`` is 5 and 7. Blocks count from 0.

    Raises:
        ConfigError: It is no such word, or the stack is too short for it.
    """
    found = _WORD.fullmatch(word)
    if found is None:
        raise ConfigError(f"{word!r} is no placement: it must be 'last<n>' or 'every<n>', for example 'last2'.")
    kind, n = found[1], int(found[2])
    second = range(1, depth, 2)
    most = len(second) if kind == "last" else depth
    if n > most:
        what = f"every second of {depth} blocks" if kind == "last" else "the blocks"
        raise ConfigError(f"{word!r} is not possible here: {what} are {most}; the largest is '{kind}{most}'.")
    return tuple(second)[-n:] if kind == "last" else tuple(range(n - 1, depth, n))
