"""How a factor becomes a capacity: the rules of libraries by name, and rules that are objects."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice, check_int

ROUNDINGS: dict[str, Callable[[float], int]] = {"ceil": math.ceil, "round": round}


def sym_min(a: int, b: int) -> int:
    """The smaller of two sizes, either of which may be symbolic.

    ``min`` would decide here and now between those of an export, and before torch 2.12 ``torch.compile`` refuses
    ``torch.sym_min`` of two that are known.
    """
    if isinstance(a, int) and isinstance(b, int):
        return min(a, b)
    return torch.sym_min(a, b)


class NoCapacity(ConfigError):
    """So few tokens leave an expert no place, by a rule that is strict."""


class CapacityRule(Protocol):
    """Whatever is called as these are."""

    def __call__(self, num_tokens: int, top_k: int, num_experts: int, factor: Any, /) -> int:
        """The assignments one expert takes of ``num_tokens`` tokens with ``top_k`` experts each."""


@dataclass(frozen=True)
class RoundedCapacity:
    """``T K factor / E`` rounded, then up to a multiple (Riquelme et al. 2021, "V-MoE", section 2.4, and its code).

    Args:
        rounding: ``ceil``, or ``round``: to the nearest whole number, halves to the even one.
        multiple_of: The capacity is rounded up to a multiple of it; 0 or ``None`` leaves it.

    Raises:
        ConfigError: ``rounding`` is unknown or ``multiple_of`` is negative; when called, the capacity is below 1 before
            it is rounded up.
    """

    rounding: str = "ceil"
    multiple_of: int | None = 4

    def __post_init__(self):
        check_choice("rounding", self.rounding, ROUNDINGS)
        if self.multiple_of is not None:
            check_int("multiple_of", self.multiple_of, low=0)

    def __call__(self, num_tokens: int, top_k: int, num_experts: int, factor: float) -> int:
        capacity = ROUNDINGS[self.rounding](num_tokens * top_k * factor / num_experts)
        if not isinstance(capacity, torch.SymInt) and capacity < 1:
            raise NoCapacity(
                f"capacity_factor={factor} is too small: {num_tokens} tokens with {top_k} of {num_experts} experts "
                f"each leave an expert a capacity of {capacity}; it must be at least 1."
            )
        return capacity + -capacity % self.multiple_of if self.multiple_of else capacity


@dataclass(frozen=True)
class FixedCapacity:
    """The same capacity whatever the number of tokens; it goes without a ``capacity_factor``.

    Raises:
        ConfigError: ``capacity`` is not a whole number of at least 1.
    """

    capacity: int
    takes_factor: ClassVar[bool] = False

    def __post_init__(self):
        check_int("capacity", self.capacity, low=1)

    def __call__(self, num_tokens: int, top_k: int, num_experts: int, factor: None = None) -> int:
        return self.capacity


def _gshard(T: int, K: int, E: int, factor: float) -> int:
    return math.ceil(factor * T * K / E)


def _tutel(T: int, K: int, E: int, factor: float) -> int:
    return K * math.floor(factor * math.ceil(T / E))


def _megablocks(T: int, K: int, E: int, factor: float) -> int:
    return math.floor(factor * K * T / E)


def _lucidrains(T: int, K: int, E: int, factor: float) -> int:
    return -sym_min(-math.floor(T * factor / E), -4)


CAPACITY_RULES: dict[str, CapacityRule] = {
    "gshard": _gshard,
    "vmoe": RoundedCapacity(),
    "tutel": _tutel,
    "megablocks": _megablocks,
    "lucidrains": _lucidrains,
}
"""How libraries turn a factor c into a capacity, by their names.

* ``gshard``: ``ceil(c T K / E)`` (GShard; DeepSpeed's form).
* ``vmoe``: the same, rounded up to a multiple of 4.
* ``tutel``: ``K * floor(c * ceil(T / E))``.
* ``megablocks``: ``floor(c T K / E)``.
* ``lucidrains``: ``floor(c T / E)``, at least 4: K plays no part.
"""


def check_rule(rule: object) -> str | CapacityRule:
    """``rule`` if it is the name of one of :data:`CAPACITY_RULES`, or can be called.

    Raises:
        ConfigError: It is neither.
    """
    if callable(rule) and not isinstance(rule, type):
        return rule
    if isinstance(rule, str):
        return check_choice("capacity_rule", rule, CAPACITY_RULES)
    raise ConfigError(
        f"capacity_rule={rule!r} is not allowed: it must be one of {', '.join(CAPACITY_RULES)}, or an object that is "
        "called with tokens, top_k, experts and factor, such as RoundedCapacity(...)."
    )


def takes_factor(rule: str | CapacityRule) -> bool:
    """Whether a rule makes its capacity from a factor."""
    return getattr(rule, "takes_factor", True)
