"""A model of a paper, and how it is built here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of a paper's table."""

    paper: str
    """The model in the paper's words."""
    name: str
    """The registered model."""
    source: str
    """Where the figures stand."""
    parameters: float | None = None
    """In millions, as printed; ``None`` where the paper does not say."""
    gflops: float | None = None
    """Per image, a multiply-add as 2."""
    active: float | None = None
    """Parameters that a token uses, in millions."""
    share: float | None = None
    """FLOPs per image in percent of those of the ``baseline``, where the paper gives that."""
    baseline: Row | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the registered configuration, above all the paper's number of classes."""
    note: str = ""
    """Why a figure differs by more than half a percent."""
