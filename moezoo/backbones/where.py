"""``where``: the words, indices, pairs and patterns that choose blocks."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

from moezoo.backbones.placement import is_placement, placed_blocks
from moezoo.backbones.site import Block
from moezoo.errors import ConfigError, InjectionError
from moezoo.names import did_you_mean

WORDS = ("all", "last", "last_half", "last_stage")


def select_blocks(blocks: Sequence[Block], where: Any, others: Sequence[Block] = ()) -> list[int]:
    """Positions of the chosen blocks in ``[*blocks, *others]``, ascending.

    Args:
        blocks: All blocks, in forward order.
        others: Modules outside the stack of blocks, which a pattern chooses when it matches no block. Of modules inside
            each other that match, the outermost is taken.
        where: ``None`` for the default (``last_stage`` where there are several stages, else ``last``); one of
            ``all, last, last_half, last_stage``; ``last<n>`` or ``every<n>``, V-MoE's (see
            :func:`~moezoo.backbones.placement.placed_blocks`); a stage's name (``layer4``); an index, negative ones
            too; a (stage, block) tuple; a pattern over module names; or a list of the last four.

    Raises:
        InjectionError: A place does not exist, is named twice, or matches nothing.
    """
    if not blocks and not _only_patterns(where):
        raise InjectionError(
            "no stack of blocks was found in this model; name modules by patterns, such as 'encoder.layer.*'."
        )
    if where is None:
        where = "last_stage" if _stages(blocks) > 1 else "last"
    if isinstance(where, str) and where in WORDS:
        return _by_word(blocks, where)
    if is_placement(where) and not any(where == b.stage_name for b in blocks):
        try:
            return list(placed_blocks(where, len(blocks)))
        except ConfigError as error:
            raise InjectionError(f"where={where!r}: {error} There are {describe(blocks)}.") from None
    if isinstance(where, (str, int)) or (isinstance(where, tuple) and _is_pair(where)):
        where = [where]
    if not isinstance(where, (list, tuple, range)) or not where:
        raise InjectionError(
            f"where={where!r} is not allowed: it must be one of {', '.join(WORDS)}, last<n>, every<n>, an index, a "
            "pair or a pattern."
        )
    chosen: list[int] = []
    for place in where:
        for position in _one_place(blocks, place, others):
            if position in chosen:
                name = [*blocks, *others][position].name
                raise InjectionError(f"where={list(where)!r} names {name!r} twice (again as {place!r}).")
            chosen.append(position)
    return sorted(chosen)


def describe(blocks: Sequence[Block]) -> str:
    """The blocks there are, shortened: ``blocks.0 … blocks.11 (12)``."""
    names = [b.name for b in blocks]
    shown = names if len(names) <= 6 else [*names[:3], "…", *names[-2:]]
    if not names:
        return "no blocks"
    return f"{', '.join(shown)} ({len(names)} blocks in {_stages(blocks)} stage{'s' if _stages(blocks) > 1 else ''})"


def _by_word(blocks: Sequence[Block], word: str) -> list[int]:
    count = len(blocks)
    if word == "last_stage":
        if _stages(blocks) == 1:
            raise InjectionError(
                "where='last_stage' is not allowed here: this backbone has no stages, its blocks are "
                f"{describe(blocks)}. Use 'last', 'last_half' or 'all'."
            )
        return [i for i, b in enumerate(blocks) if b.stage == blocks[-1].stage]
    return list(range({"all": 0, "last": count - 1, "last_half": count // 2}[word], count))


def _one_place(blocks: Sequence[Block], place: Any, others: Sequence[Block]) -> list[int]:
    if isinstance(place, bool) or not (isinstance(place, (int, str)) or _is_pair(place)):
        raise InjectionError(f"where: {place!r} is not an index, a (stage, block) pair or a module name.")
    if isinstance(place, int):
        if not -len(blocks) <= place < len(blocks):
            raise InjectionError(
                f"where: block index {place} is out of range; allowed are {-len(blocks)} to {len(blocks) - 1}: "
                f"{describe(blocks)}."
            )
        return [place % len(blocks)]
    if isinstance(place, str):
        found = [i for i, b in enumerate(blocks) if b.stage_name == place and _stages(blocks) > 1]
        found = found or [i for i, b in enumerate(blocks) if fnmatch.fnmatchcase(b.name, place)]
        found = found or [len(blocks) + i for i in _outermost(others, place)]
        if not found:
            stages = dict.fromkeys(b.stage_name for b in blocks)
            options = [*WORDS, "last2", "every2", *stages, *(b.name for b in (*blocks, *others))]
            raise InjectionError(
                f"where: {place!r} matches no block.{did_you_mean(place, options)} There are {describe(blocks)}."
            )
        return found
    return [_pair(blocks, *place)]


def _outermost(others: Sequence[Block], pattern: str) -> list[int]:
    """Indices of the modules that match, without those inside another that does."""
    matching = {b.name: i for i, b in enumerate(others) if fnmatch.fnmatchcase(b.name, pattern)}
    return [i for name, i in matching.items() if not any(name.startswith(f"{outer}.") for outer in matching)]


def _only_patterns(where: Any) -> bool:
    places = where if isinstance(where, (list, tuple)) else [where]
    return bool(places) and all(isinstance(place, str) and place not in WORDS for place in places)


def _pair(blocks: Sequence[Block], stage: int | str, index: int) -> int:
    if isinstance(stage, int):
        number = stage % _stages(blocks) if -_stages(blocks) <= stage < _stages(blocks) else -1
    else:
        number = _stage_named(blocks, stage)
    members = [i for i, b in enumerate(blocks) if b.stage == number]
    if not members:
        names = list(dict.fromkeys(b.stage_name for b in blocks))
        raise InjectionError(
            f"where: stage {stage!r} does not exist.{did_you_mean(str(stage), names)} "
            f"Allowed: 0 to {_stages(blocks) - 1} or {', '.join(names)}."
        )
    if not -len(members) <= index < len(members):
        raise InjectionError(
            f"where: ({stage!r}, {index}) is out of range; stage {stage!r} has blocks 0 to {len(members) - 1}."
        )
    return members[index]


def _stage_named(blocks: Sequence[Block], name: str) -> int:
    """The stage of a name; -1 if there is none. Stages of one flat list of blocks share the list's name."""
    numbers = sorted({b.stage for b in blocks if b.stage_name == name})
    if len(numbers) > 1:
        raise InjectionError(
            f"where: {name!r} names the list of all {len(numbers)} stages; name one by its number, "
            f"{numbers[0]} to {numbers[-1]}."
        )
    return numbers[0] if numbers else -1


def _is_pair(place: Any) -> bool:
    return (
        isinstance(place, (tuple, list))
        and len(place) == 2
        and isinstance(place[0], (int, str))
        and isinstance(place[1], int)
        and not any(isinstance(v, bool) for v in place)
    )


def _stages(blocks: Sequence[Block]) -> int:
    return blocks[-1].stage + 1 if blocks else 0
