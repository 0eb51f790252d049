"""What ``config.json`` says of a model that was pruned or quantised after it was built. No torch here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from moezoo.config import STRICT

MODES = ("int8_dynamic", "int8_weight_only")
"""``int8_dynamic`` rounds what a linear layer is given too, and computes in whole numbers."""


@dataclass(frozen=True)
class Compression:
    """How the tensors of a stored model differ from those that its configuration builds."""

    __pydantic_config__ = STRICT

    hidden: Mapping[str, int] = field(default_factory=dict)
    """Hidden units that are left, by the path of the module that has them."""
    sources: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """The source that each expert reads, by the path of the layer whose experts were removed or added."""
    int8_mode: str | None = None
    """One of :data:`MODES`; ``None``: no weight is int8."""
    int8_weights: tuple[str, ...] = ()
    """The parameters that are int8, by name."""
