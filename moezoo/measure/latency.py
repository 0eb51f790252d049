"""Latency of one or several models, timed in interleaved rounds so that all of them meet the same machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import nn

from moezoo.errors import ConfigError
from moezoo.measure.calling import call, device_of, fit_input
from moezoo.moe.checks import check_choice, check_int
from moezoo.moe.modes import evaluating

Callee = Callable[..., Any]


@dataclass(frozen=True)
class Latency:
    """Milliseconds per call."""

    p50: float
    p95: float
    samples: tuple[float, ...]
    """One per round, in order."""
    ratio: float | None = None
    """Median over the rounds of this model's time by the baseline's of the same round; ``None`` without a
    baseline."""
    ratio_low: float | None = None
    """First quartile of that ratio."""
    ratio_high: float | None = None
    """Third quartile of that ratio."""


@overload
def latency(
    models: Mapping[str, Callee],
    input: Any = ...,
    *,
    rounds: int = ...,
    warmup: int = ...,
    baseline: str | None = ...,
    device: torch.device | str | None = ...,
) -> dict[str, Latency]: ...
@overload
def latency(
    models: Callee,
    input: Any = ...,
    *,
    rounds: int = ...,
    warmup: int = ...,
    baseline: str | None = ...,
    device: torch.device | str | None = ...,
) -> Latency: ...
def latency(
    models: Mapping[str, Callee] | Callee,
    input: Any = None,
    *,
    rounds: int = 20,
    warmup: int = 3,
    baseline: str | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Latency] | Latency:
    """Time ``models`` round by round: every round calls each of them once, in rotating order.

    A module runs in evaluation mode without gradients and is put back afterwards; any other callable runs as
    it is. The number of threads is left alone.

    Args:
        models: One callable, or several by name.
        input: A tensor, a tuple of positional arguments or a mapping of keyword arguments, moved to each
            module's device and floating-point type. ``None`` calls with no arguments.
        rounds: Timed calls of each model.
        warmup: Calls of each model before the first timed one.
        baseline: The name whose time in the same round the others are divided by.
        device: Where the work happens; ``None`` asks each module. CUDA is timed by events, other accelerators
            are synchronised.

    Returns:
        One :class:`Latency`, or one per name.

    Raises:
        ConfigError: ``rounds`` or ``warmup`` is out of range, ``models`` is empty, or ``baseline`` is not one
            of them.
    """
    check_int("rounds", rounds, low=1)
    check_int("warmup", warmup, low=0)
    named = dict(models) if isinstance(models, Mapping) else {"model": models}
    if not named:
        raise ConfigError("models is empty: latency needs at least one callable.")
    if baseline is not None:
        check_choice("baseline", baseline, named)
    timers = {name: _timer(model, input, device) for name, model in named.items()}
    for timer in timers.values():
        for _ in range(warmup):
            timer()
    samples: dict[str, list[float]] = {name: [] for name in named}
    order = list(named)
    for _ in range(rounds):
        for name in order:
            samples[name].append(timers[name]())
        order.append(order.pop(0))  # so that nobody is always the first of a round
    results = {
        name: _summary(values, samples[baseline] if baseline is not None else None) for name, values in samples.items()
    }
    return results if isinstance(models, Mapping) else results["model"]


def paired_ratio(samples: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """Median, first and third quartile of the ratios of times measured in the same round."""
    ratios = [ours / theirs for ours, theirs in zip(samples, baseline, strict=True)]
    return _quantile(ratios, 0.5), _quantile(ratios, 0.25), _quantile(ratios, 0.75)


def _timer(model: Callee, input: Any, device: Any) -> Callable[[], float]:
    """A function that calls ``model`` once and returns milliseconds."""
    where = torch.device(device) if device is not None else device_of(model, input)
    if isinstance(model, nn.Module):
        input = fit_input(model, input)

    def run() -> None:
        if input is None:
            model()
        else:
            call(model, input)

    def timed() -> float:
        if where.type == "cuda":
            return _cuda_milliseconds(run, where)
        _synchronize(where)
        start = time.perf_counter_ns()
        run()
        _synchronize(where)
        return (time.perf_counter_ns() - start) / 1e6

    if not isinstance(model, nn.Module):
        return timed

    def timed_in_evaluation() -> float:
        with evaluating(model):
            return timed()

    return timed_in_evaluation


def _cuda_milliseconds(run: Callable[[], None], device: torch.device) -> float:
    with torch.cuda.device(device):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        run()
        end.record()
        end.synchronize()
        return start.elapsed_time(end)


def _synchronize(device: torch.device) -> None:
    if device.type not in ("cpu", "meta"):
        torch.accelerator.synchronize(device)


def _summary(samples: list[float], baseline: list[float] | None) -> Latency:
    ratio = paired_ratio(samples, baseline) if baseline is not None else (None, None, None)
    return Latency(_quantile(samples, 0.5), _quantile(samples, 0.95), tuple(samples), *ratio)


def _quantile(values: Sequence[float], q: float) -> float:
    """Linear interpolation between the order statistics."""
    ordered = sorted(values)
    if q == 0.5:
        return statistics.median(ordered)
    place = q * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
