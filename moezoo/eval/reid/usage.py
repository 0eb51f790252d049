"""How evenly, how widely and how steadily a gate uses its experts, from its weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.moe.checks import check_probability
from moezoo.moe.record import RoutingRecord

THRESHOLD = 0.1
"""A weight above this is an active expert."""


@dataclass(frozen=True)
class MoEUsage:
    """Of the (N, E) weights of a gate. Variances are biased: those of these N, not of a population behind them."""

    layer: str
    """The layer's path in the model; empty for weights that were given."""
    tokens: int
    """N."""
    mean: tuple[float, ...]
    """(E,) mean weight of each expert."""
    balance: float
    """Variance over the experts of their mean weight: 0 is even, (E - 1) / E**2 one expert for everything."""
    activation_rate: float
    """Share of the weights above :attr:`threshold`."""
    stability: float
    """Variance of all weights: 0 is a gate that always gives everyone the same."""
    variation: float
    """The part of it that is from token to token, ``stability - balance``: 0 is a gate that does not look at its
    input."""
    threshold: float

    @property
    def num_experts(self) -> int:
        return len(self.mean)


def moe_usage(weights: Tensor, threshold: float = THRESHOLD) -> MoEUsage:
    """Balance, activation rate and stability of a gate.

    Args:
        weights: (N, E) or (…, E), what each token gives each expert, 0 for an expert that is not computed.
        threshold: Above which an expert counts as active.

    Raises:
        ConfigError: ``threshold`` is not from 0 to 1.
        InputError: There are no weights, or some are NaN or infinite.
    """
    sums = _Sums.of(_checked(weights), check_probability("threshold", threshold))
    return sums.usage("", threshold)


class UsageCounter:
    """Adds up the weights of many batches: ``counter.add(records)`` after each, then ``counter.report()``.

    Args:
        threshold: As of :func:`moe_usage`.
    """

    def __init__(self, threshold: float = THRESHOLD):
        self.threshold = check_probability("threshold", threshold)
        self._sums: dict[str, _Sums] = {}

    def add(self, records: Iterable[RoutingRecord]) -> None:
        """Count the tokens of ``records``; calls of the same layer are added together."""
        for record in records:
            if record.routing.num_tokens:
                self._include(record.name, _Sums.of(record.routing.weight_by_expert(), self.threshold))

    def join(self, other: UsageCounter) -> None:
        """Count what ``other``, of the same threshold, has counted too: of another batch or process."""
        for name, sums in other._sums.items():
            self._include(name, sums)

    def _include(self, name: str, sums: _Sums) -> None:
        self._sums[name] = self._sums[name].plus(sums) if name in self._sums else sums

    def report(self) -> tuple[MoEUsage, ...]:
        """One :class:`MoEUsage` per layer, in the order they ran."""
        return tuple(sums.usage(name, self.threshold) for name, sums in self._sums.items())


@dataclass(frozen=True)
class _Sums:
    """What all figures can be told from, so that no weights need be kept."""

    tokens: int
    weights: Tensor
    """(E,) float64."""
    squares: float
    active: int

    @staticmethod
    def of(weights: Tensor, threshold: float) -> _Sums:
        flat = weights.detach().reshape(-1, weights.shape[-1])
        # As float32 numbers, so that a weight that is the threshold is not above it.
        active = int((flat > torch.tensor(threshold, dtype=flat.dtype)).sum())
        exact = flat.cpu().double()  # not on the device: Apple's have no float64
        return _Sums(len(flat), exact.sum(0), float(exact.square().sum()), active)

    def plus(self, other: _Sums) -> _Sums:
        return _Sums(
            self.tokens + other.tokens,
            self.weights + other.weights,
            self.squares + other.squares,
            self.active + other.active,
        )

    def usage(self, layer: str, threshold: float) -> MoEUsage:
        mean = self.weights / self.tokens
        number = self.tokens * len(mean)
        balance = float(mean.var(correction=0))
        # Rounding may leave a variance of nothing a little below 0.
        stability = max(self.squares / number - float(mean.mean()) ** 2, 0.0)
        return MoEUsage(
            layer=layer,
            tokens=self.tokens,
            mean=tuple(mean.tolist()),
            balance=balance,
            activation_rate=self.active / number,
            stability=stability,
            variation=max(stability - balance, 0.0),
            threshold=threshold,
        )


def _checked(weights: Tensor) -> Tensor:
    if not isinstance(weights, Tensor) or weights.dim() < 1 or not weights.numel() or not weights.is_floating_point():
        given = f"{tuple(weights.shape)} {weights.dtype}" if isinstance(weights, Tensor) else type(weights).__name__
        raise InputError(f"weights must be a floating-point tensor (N, E) with something in it, got {given}")
    if not weights.isfinite().all():
        raise InputError("weights hold NaN or infinity")
    return weights
