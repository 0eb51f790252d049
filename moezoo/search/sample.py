"""Drawing designs of a space: all that fit, none twice."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int
from moezoo.search.choosing import Chance
from moezoo.search.constraints import Constraint, make_filter
from moezoo.search.cost import Cost, check_window, design_cost
from moezoo.search.spaces import Design, Space, find_space

DRAWS = 20_000
"""Draws in a row without a new design that meets the constraints, before that is given up."""
COUNTED = 200
"""The same of such designs outside the window of FLOPs."""


def sample_space(
    space: str | Space,
    n: int,
    seed: int = 0,
    *,
    constraints: Sequence[Constraint] = (),
    flops_window: tuple[float, float] | None = None,
    assignments: Sequence[str] = (),
) -> list[Design]:
    """``n`` different designs, drawn as the space draws them and kept if they fit.

    The first designs of a larger sample are those of a smaller one with the same seed.

    Args:
        space: A :class:`~moezoo.search.Space` or its name.
        n: How many.
        seed: Of the draws.
        constraints: See :func:`~moezoo.search.constraints.make_filter`.
        flops_window: (low, high): executed FLOPs of one image, both ends included.
        assignments: ``key=value`` that all models have, as of ``moezoo train --set``.

    Raises:
        ConfigError: An argument is not allowed, or there are not as many designs that fit; the message says what was
            found instead.
    """
    check_int("n", n, low=1)
    check_int("seed", seed, low=0)
    stream = stream_designs(find_space(space), seed, constraints, check_window(flops_window), assignments)
    found: list[Design] = []
    try:
        for design in stream:
            found.append(design)
            if len(found) == n:
                break
    except ConfigError as error:
        if not found:
            raise
        raise ConfigError(f"only {len(found)} of n={n} designs were found: {error}") from None
    return found


def stream_designs(
    space: Space,
    seed: int,
    constraints: Sequence[Constraint] = (),
    window: tuple[float, float] | None = None,
    assignments: Sequence[str] = (),
) -> Iterator[Design]:
    """Different designs that fit, without end.

    Raises:
        ConfigError: None was found for a long time.
    """
    chance, fits = Chance(random.Random(seed)), make_filter(space, constraints)
    seen: set[str] = set()
    outside: list[Cost] = []
    drawn = allowed = 0
    while True:
        if drawn >= DRAWS and not outside:
            raise ConfigError(_nothing_fits(space, constraints, seen, allowed))
        if len(outside) >= COUNTED or drawn >= DRAWS:
            raise ConfigError(_none_in_window(space, window, outside))
        drawn += 1
        values = chance_values(space, chance)
        if values is None or not fits(values):
            continue
        allowed += 1
        design = Design(space.name, values)
        if design.key in seen:
            continue
        seen.add(design.key)
        if window is not None:
            cost = design_cost(space, values, assignments)
            if not window[0] <= cost.flops <= window[1]:
                outside.append(cost)
                continue
        drawn = allowed = 0
        outside.clear()
        yield design


def chance_values(space: Space, chance: Chance) -> dict | None:
    """One draw."""
    chance.drawn = {}
    return space.draw(chance)


def _nothing_fits(space: Space, constraints: Sequence[Constraint], seen: set[str], allowed: int) -> str:
    told = ", ".join(each if isinstance(each, str) else repr(each) for each in constraints)
    if allowed:
        return f"{space.name} seems to have no more than {len(seen)} designs{f' with {told}' if told else ''}."
    return f"none of {DRAWS} draws of {space.name} is {f'a design with {told}' if told else 'a valid design'}."


def _none_in_window(space: Space, window: tuple[float, float] | None, outside: list[Cost]) -> str:
    counts = [cost.flops for cost in outside]
    return (
        f"flops_window={window}: none of {len(counts)} designs of {space.name} in a row lies in it; theirs are from "
        f"{min(counts):,} to {max(counts):,} FLOPs."
    )
