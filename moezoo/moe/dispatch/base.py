"""What every plan offers the layer and its experts, wherever the rows come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from moezoo.errors import InputError

STATIC_PATHS = frozenset({"grouped", "static"})
"""Paths whose shapes do not depend on where the tokens go, as tracing needs."""


@dataclass(frozen=True)
class Plan(ABC):
    """The N rows that the experts compute in one call, sorted by expert."""

    expert_index: Tensor
    """(N,) the expert of each row, ascending; rows of a static plan that were dropped have the last expert's index."""
    counts: Tensor
    """(E,) int64 rows per expert."""
    num_tokens: int
    path: str
    """How the experts compute: one of :data:`moezoo.moe.paths.RUN`."""

    @property
    def static(self) -> bool:
        return self.path in STATIC_PATHS

    @property
    def plain(self) -> bool:
        """Whether to keep to operations that can be traced, transformed and differentiated in every way."""
        return self.static or self.path == "loop" or torch._C._are_functorch_transforms_active()

    @cached_property
    def sizes(self) -> list[int]:
        """Rows per expert as numbers: the one wait for the device that paths with dynamic shapes need."""
        return self.counts.tolist()

    @abstractmethod
    def gather(self, x_TD: Tensor) -> Tensor:
        """(N, D): each expert's rows, one expert after the other."""

    def by_token(self, y_ND: Tensor) -> Tensor:
        """(T, E, D): each expert's result for each token, zeros where it has none.

        Raises:
            InputError: Experts compute mixtures of tokens.
        """
        raise InputError("what an expert gave for a token is not known where it computes mixtures of tokens")

    @abstractmethod
    def combine(self, y_ND: Tensor) -> Tensor:
        """(T, D): what the tokens get of the experts' results."""
