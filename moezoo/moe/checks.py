"""Checks of constructor arguments that cannot come through a decoded configuration."""

from __future__ import annotations

from collections.abc import Iterable

from moezoo.errors import ConfigError
from moezoo.names import did_you_mean


def check_bool(name: str, value: object) -> bool:
    """``value`` if it is ``True`` or ``False``."""
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value!r} is not allowed: it must be True or False.")
    return value


def check_int(name: str, value: object, *, low: int, high: int | None = None) -> int:
    """``value`` if it is a whole number in [low, high]; a bool or 1.5 is not."""
    allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        raise ConfigError(f"{name}={value!r} is not allowed: it must be {allowed}.")
    return value


def check_positive(name: str, value: object, *, zero: bool = False) -> float:
    """``value`` as a finite float above zero (or at least zero)."""
    ok = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and value == value
        and abs(value) != float("inf")
    )
    if not ok or value < 0 or (value == 0 and not zero):  # type: ignore[operator]
        raise ConfigError(
            f"{name}={value!r} is not allowed: it must be a finite number {'of at least' if zero else 'above'} 0."
        )
    return float(value)  # type: ignore[arg-type]


def check_probability(name: str, value: object) -> float:
    """``value`` as a float in [0, 1]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ConfigError(f"{name}={value!r} is not allowed: it must be a number from 0 to 1.")
    return float(value)


def check_choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """``value`` if it is one of ``allowed``, else an error with the nearest spelling."""
    options = list(allowed)
    if not isinstance(value, str) or value not in options:
        raise ConfigError(
            f"{name}={value!r} is not allowed.{did_you_mean(str(value), options)} Allowed: {', '.join(options)}."
        )
    return value
