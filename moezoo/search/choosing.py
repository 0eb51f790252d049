"""Who chooses the values of a design: chance here, a sampler that learns in :mod:`moezoo.search.nas`."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any, Protocol


class Chooser(Protocol):
    """Is asked for one value of a design after another, each under a name of its own."""

    def one_of(self, name: str, options: Sequence[Any]) -> Any:
        """One of ``options``; numbers are taken to be in order."""

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number from ``low`` to ``high``; with ``log`` each doubling is as likely as another."""

    def number(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number from ``low`` to ``high``."""


class Chance:
    """Every value is drawn independently of what was learnt before.

    Args:
        rng: Where randomness comes from.
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.drawn: dict[str, Any] = {}
        """By name; of :meth:`one_of` the place among the options."""

    def one_of(self, name: str, options: Sequence[Any]) -> Any:
        self.drawn[name] = self.rng.randrange(len(options))
        return options[self.drawn[name]]

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        if log:  # every whole number has the piece of the axis around it, from x - 1/2 to x + 1/2
            value = round(math.exp(self.rng.uniform(math.log(low - 0.5), math.log(high + 0.5))))
            value = min(max(value, low), high)
        else:
            value = self.rng.randint(low, high)
        self.drawn[name] = value
        return value

    def number(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        ends = (math.log(low), math.log(high)) if log else (low, high)
        value = self.rng.uniform(*ends)
        self.drawn[name] = min(max(math.exp(value) if log else value, low), high)
        return self.drawn[name]
