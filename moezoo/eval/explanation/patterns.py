"""When experts are used: how often, for what content, and how that changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from moezoo.errors import InputError, NonFiniteError
from moezoo.eval.plain import plain
from moezoo.moe.checks import check_probability

SHUFFLES = 20
"""Random assignments of content to samples, whose information is what chance gives."""


@dataclass(frozen=True)
class ContentRelation:
    """What one property of the samples (identity, camera, class) has to do with the experts."""

    name: str
    values: tuple[str, ...]
    counts: tuple[int, ...]
    """Samples of each value."""
    share: tuple[tuple[float, ...], ...]
    """Values x experts: the mean weights of the samples of a value."""
    information: float
    """Bits that an expert, drawn by a sample's weights, tells about the property (mutual information)."""
    chance: float
    """The same, mean over random assignments of the values to the samples: few samples of many values look related."""
    entropy: float
    """Bits that the property has: the most that could be told."""

    @property
    def excess(self) -> float:
        """Bits above chance; 0 where there is no relation."""
        return max(self.information - self.chance, 0.0)


@dataclass(frozen=True)
class ActivationPatterns:
    """How the E experts of one layer were used at each of T moments."""

    experts: tuple[str, ...]
    threshold: float
    samples: tuple[int, ...]
    """At each moment."""
    mean_weight: tuple[tuple[float, ...], ...]
    """Moments x experts; a moment's sum to 1 where the weights of a sample do."""
    activation: tuple[tuple[float, ...], ...]
    """Moments x experts: the share of the samples in which the expert's weight is above ``threshold``."""
    first: tuple[tuple[float, ...], ...]
    """Moments x experts: the share of the samples in which the expert has the largest weight."""
    change: tuple[float, ...]
    """From each moment to the next, half the sum of the differences of the mean weights: 0 to 1."""
    switched: tuple[float, ...] | None
    """From each moment to the next, the share of the samples with another first expert; ``None`` where the moments
    have not the same number of samples."""
    trend: tuple[float, ...]
    """Of each expert, by how much its mean weight changes from a moment to the next, by least squares."""
    content: tuple[ContentRelation, ...]
    """At the last moment."""

    @property
    def frequency(self) -> tuple[float, ...]:
        """Of each expert, how often it came first at the last moment."""
        return self.first[-1]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-like data."""
        return plain(dataclasses.asdict(self))


def analyze_expert_activation_patterns(
    history: Any,
    content: Mapping[str, Sequence[Any]] | None = None,
    *,
    experts: Sequence[Any] | None = None,
    threshold: float = 0.1,
    seed: int = 0,
) -> ActivationPatterns:
    """How often each expert is used, what for, and how that changes over a history.

    Args:
        history: T moments, such as epochs or batches, each the (N, E) weights of its samples; or one (N, E) alone.
        content: Property to its value for each of the N samples of the last moment: identities, cameras, classes, the
            levels of a cue. Numbers and words are taken as kinds, not measured.
        experts: E names; by default their numbers. Whole numbers are scales and read ``4 x 4``.
        threshold: From which weight on an expert counts as active.
        seed: Of the random assignments that ``chance`` is measured with.

    Raises:
        InputError: A moment is not (N, E) or has a weight below 0, the moments differ in E, or the names or values are
            not as many as they must be.
        ConfigError: ``threshold`` is not from 0 to 1.
        NonFiniteError: A weight is NaN or infinite.
    """
    moments = _moments(history)
    E = moments[0].shape[1]
    threshold = check_probability("threshold", threshold)
    mean = np.stack([weights.mean(0) for weights in moments])
    firsts = [weights.argmax(1) for weights in moments]
    same = len({len(weights) for weights in moments}) == 1
    steps = range(len(moments) - 1)
    return ActivationPatterns(
        experts=expert_names(experts, E),
        threshold=threshold,
        samples=tuple(len(weights) for weights in moments),
        mean_weight=_rows(mean),
        activation=_rows(np.stack([(weights > threshold).mean(0) for weights in moments])),
        first=_rows(np.stack([np.bincount(first, minlength=E) / len(first) for first in firsts])),
        change=tuple(float(np.abs(mean[t + 1] - mean[t]).sum() / 2) for t in steps),
        switched=tuple(float((firsts[t + 1] != firsts[t]).mean()) for t in steps) if same else None,
        trend=_trend(mean),
        content=tuple(
            _relation(name, moments[-1], values, np.random.default_rng(seed))
            for name, values in (content or {}).items()
        ),
    )


def expert_names(experts: Sequence[Any] | None, number: int) -> tuple[str, ...]:
    """A label for each of ``number`` experts, of whole numbers (scales) ``4 x 4``.

    Raises:
        InputError: There are not so many.
    """
    if experts is None:
        return tuple(f"expert {index}" for index in range(number))
    if len(experts) != number:
        raise InputError(f"{len(experts)} names {tuple(experts)} were given for {number} experts")
    return tuple(f"{each} x {each}" if isinstance(each, Integral) else str(each) for each in experts)


def _moments(history: Any) -> list[np.ndarray]:
    if isinstance(history, (Tensor, np.ndarray)) and history.ndim == 2:
        history = [history]
    moments = [_weights(number, each) for number, each in enumerate(history)]
    if not moments:
        raise InputError("history needs at least one moment of (N, E) weights")
    widths = {weights.shape[1] for weights in moments}
    if len(widths) != 1:
        raise InputError(f"history: all moments must have the same experts, got {sorted(widths)} of them")
    return moments


def _weights(number: int, each: Any) -> np.ndarray:
    weights = each.detach().cpu().double().numpy() if isinstance(each, Tensor) else np.asarray(each, dtype=np.float64)
    if weights.ndim != 2 or 0 in weights.shape:
        raise InputError(f"history[{number}] must be (N, E) weights with N and E at least 1, got {weights.shape}")
    if not np.isfinite(weights).all():
        raise NonFiniteError(f"history[{number}] must be finite, got NaN or infinity")
    if weights.min() < 0:
        raise InputError(f"history[{number}] must be at least 0, got {weights.min():g}")
    return weights


def _rows(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(row) for row in values.tolist())


def _trend(mean: np.ndarray) -> tuple[float, ...]:
    time = np.arange(len(mean)) - (len(mean) - 1) / 2
    return tuple((time @ mean / (float(time @ time) or 1.0)).tolist())


def _relation(name: str, weights: np.ndarray, values: Sequence[Any], rng: np.random.Generator) -> ContentRelation:
    # Two tensors of one number are equal, but not the same kind: a set tells them apart.
    values = [each.item() if isinstance(each, (Tensor, np.generic)) else each for each in values]
    if len(values) != len(weights):
        raise InputError(f"content[{name!r}] must have a value for each of {len(weights)} samples, got {len(values)}")
    kinds = sorted(set(values), key=lambda value: (isinstance(value, str), value))
    place = {kind: index for index, kind in enumerate(kinds)}
    code = np.array([place[value] for value in values])
    counts = np.bincount(code, minlength=len(kinds))
    total = weights.sum(1, keepdims=True)
    shares = np.divide(weights, total, out=np.full_like(weights, 1 / weights.shape[1]), where=total > 0)
    part = counts / counts.sum()
    return ContentRelation(
        name=name,
        values=tuple(map(str, kinds)),
        counts=tuple(counts.tolist()),
        share=_rows(_means(weights, code, counts)),
        information=_information(shares, code, counts),
        chance=float(np.mean([_information(shares, rng.permutation(code), counts) for _ in range(SHUFFLES)])),
        entropy=float(-(part * np.log2(part)).sum()),
    )


def _means(weights: np.ndarray, code: np.ndarray, counts: np.ndarray) -> np.ndarray:
    sums = np.zeros((len(counts), weights.shape[1]))
    np.add.at(sums, code, weights)
    return sums / counts[:, None]


def _information(shares: np.ndarray, code: np.ndarray, counts: np.ndarray) -> float:
    """Bits between the value of a sample and an expert drawn by its weights."""
    given = _means(shares, code, counts)
    ratio = np.divide(given, shares.mean(0), out=np.ones_like(given), where=given > 0)
    return float((counts / counts.sum()) @ (given * np.log2(ratio)).sum(1))
