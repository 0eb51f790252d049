"""Keeping fake tensors out of the function caches of other people's models.

A library may cache a tensor per size and device (DINOv3's patch coordinates, for example). One made in a run on fake
tensors looks like the real one there, and the next real run would be given it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CellType
from typing import Any

from torch import nn


@contextmanager
def without_leftovers(model: nn.Module) -> Iterator[None]:
    """Empty the function caches that ``model``'s own code may have filled meanwhile."""
    try:
        yield
    finally:
        for holder in _holders(model):
            for value in list(vars(holder).values()):
                for cache in _caches(value):
                    cache.cache_clear()


def _caches(value: Any) -> list[Any]:
    """The cache that ``value`` is, or that a decorated function or method holds in its closure."""
    function = getattr(value, "__func__", value)
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if _is_filled(cell)]
    return [one for one in (function, *cells) if isinstance(one, functools._lru_cache_wrapper)]


def _is_filled(cell: CellType) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # the name is not bound yet
        return False


def _holders(model: nn.Module) -> set[object]:
    """The classes of ``model``'s modules and the Python modules they are defined in, torch's own left out."""
    classes = {base for module in model.modules() for base in type(module).__mro__}
    foreign = {kind for kind in classes if kind.__module__.partition(".")[0] not in ("torch", "builtins", "moezoo")}
    return {*foreign, *(sys.modules[kind.__module__] for kind in foreign if kind.__module__ in sys.modules)}
