"""Dials of a trained model: what it spends on an image, turned without training it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe import set_budget, set_threshold

DIALS: Mapping[str, Callable[[nn.Module, float | None], Any]] = {"threshold": set_threshold, "budget": set_budget}
"""Factor to the function that turns it; ``None`` leaves the model as it was trained."""


def dials_of(model: nn.Module) -> set[str]:
    """Those that ``model`` has. They are left at what was trained."""
    found = set()
    for name, turn in DIALS.items():
        with suppress(ConfigError):
            turn(model, None)
            found.add(name)
    return found


@contextmanager
def turned(model: nn.Module, dial: str, value: Any) -> Iterator[None]:
    """Inside, the dial of ``model`` stands at ``value``.

    Raises:
        ConfigError: The model has no such dial, or the value is not allowed.
    """
    DIALS[dial](model, value)
    try:
        yield
    finally:
        DIALS[dial](model, None)
