"""What every plan offers the layer and its experts, wherever the rows come from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from moezoo.errors import InputError

TRACEABLE = frozenset({"loop", "grouped", "static"})
"""Paths of operations that can be traced, transformed and differentiated in every way."""

STATIC_PATHS = frozenset({"grouped", "static", "triton"})
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
        return self.path in TRACEABLE or torch._C._are_functorch_transforms_active()

    @cached_property
    def sizes(self) -> list[int]:
        """Rows per expert as numbers: the one wait for the device that paths with dynamic shapes need."""
        return self.counts.tolist()

    @property
    def offsets(self) -> Tensor:
        """(E,) int32: where the rows of each expert end."""
        known = self.__dict__.get("known_offsets")  # no cached_property: tracing knows no locks
        return self.counts.cumsum(0).to(torch.int32) if known is None else known

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


def even_offsets(counts_E: Tensor) -> Tensor:
    """(E,) int32: :attr:`Plan.offsets` where every expert has as many rows.

    No running sum: torch's compiler has a rule for those of a constant, which fails where the constant is a size.
    """
    number_E = torch.arange(1, counts_E.shape[0] + 1, device=counts_E.device)
    return (number_E * counts_E).to(torch.int32)
