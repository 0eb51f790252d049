"""Timing of several implementations in interleaved rounds, and medians of paired ratios with their uncertainty."""

from __future__ import annotations

import gc
import os
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

Samples = dict[str, list[float | None]]
"""Milliseconds of each round by implementation; ``None`` where it sat out."""
SCRATCH_BYTES = 2**30
"""What is written before each call on a GPU: far more than its cache holds, for as long as some work takes to queue."""
SLOW, SLOW_ROUNDS = 8.0, 3
"""What takes longer than 8 times the first implementation runs in the first three rounds only."""


@dataclass(frozen=True)
class Run:
    """What is timed, and what happens before it off the clock."""

    call: Callable[[], object]
    prepare: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Ratio:
    """Median of paired ratios and the 90 % interval of that median."""

    median: float
    low: float
    high: float
    rounds: int

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"


def interleave(
    runs: Mapping[str, Run],
    *,
    rounds: int | None,
    seconds: float,
    device: torch.device,
    seed: int = 0,
    busy: bool = False,
    tick: Callable[[float], None] = lambda share: None,
) -> Samples:
    """Time every run once a round, in an order shuffled anew each round.

    Args:
        runs: By name; the first one is what ``SLOW`` compares with. They were called before.
        rounds: How many; ``None`` takes as many as fit into ``seconds``, but five.
        seconds: See ``rounds``.
        device: Where the work happens; CUDA is timed by events and begins with a cold cache.
        seed: Of the order.
        busy: On CUDA the clock starts while the device works, as behind other layers, so that the first launches cost
            nothing: for work that keeps the device from waiting for launches. Else it starts when the device is idle.
        tick: Called after each round with the share of the work that is done.
    """
    order, shuffle = list(runs), random.Random(seed)
    first = min(_milliseconds(runs[order[0]], device, busy) for _ in range(3))
    slow = set()
    for name, run in runs.items():
        # A second try: one hiccup does not make an implementation slow.
        if all(_milliseconds(run, device, busy) > SLOW * first for _ in range(2)):
            slow.add(name)
    samples: Samples = {name: [] for name in runs}
    start, done = time.perf_counter(), 0
    while True:
        shuffle.shuffle(order)
        for name in order:
            sits_out = name in slow and done >= SLOW_ROUNDS
            samples[name].append(None if sits_out else _milliseconds(runs[name], device, busy))
        done += 1
        spent = time.perf_counter() - start
        share = done / rounds if rounds else min(spent / seconds, done / 5)
        tick(min(share, 1.0))
        if share >= 1:
            return samples


def timed(
    what: str, runs: Mapping[str, Run], console: Console, *, rounds: int, device: torch.device, seed: int = 0
) -> Samples:
    """:func:`interleave` of runs that were not called yet, behind a progress bar that says ``what``."""
    for run in runs.values():
        run.prepare()
        run.call()
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=1.0)
        return interleave(
            runs,
            rounds=rounds,
            seconds=0.0,
            device=device,
            seed=seed,
            tick=lambda share: bar.update(task, completed=share),
        )


def paired(samples: Sequence[float | None], baseline: Sequence[float | None]) -> Ratio:
    """The ratio of two implementations over the rounds that both of them ran in."""
    pairs = zip(samples, baseline, strict=True)
    return bootstrap_median([ours / theirs for ours, theirs in pairs if ours is not None and theirs is not None])


def bootstrap_median(values: Sequence[float], *, level: float = 0.9, resamples: int = 4000, seed: int = 0) -> Ratio:
    """Median of ``values`` with its percentile bootstrap interval: resampled with replacement, the middle ``level``."""
    sample = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randint(len(sample), (resamples, len(sample)), generator=generator)
    medians = sample[draws].quantile(0.5, dim=1)
    low, high = medians.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)).tolist()
    return Ratio(sample.quantile(0.5).item(), low, high, len(sample))


def peak_above(run: Run, device: torch.device) -> int:
    """The most that a call holds on a GPU above what was there: parameters and input were, gradients were not."""
    run.prepare()
    gc.collect()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run.call()
    peak = torch.cuda.max_memory_allocated(device) - before
    run.prepare()
    return peak


def allocator() -> dict[str, str]:
    """The variables of the C allocator that are set: with its defaults big tensors pay for page faults each time."""
    names = ("MALLOC_", "LD_PRELOAD", "THP_MEM_ALLOC_ENABLE", "GLIBC_TUNABLES")
    return {name: value for name, value in sorted(os.environ.items()) if name.startswith(names)}


def host_milliseconds(run: Run, device: torch.device, *, calls: int = 5) -> float:
    """The median time until a call returns, whether or not the device is done: near the device's own time the host
    waits for it, or cannot queue work as fast as it is done."""
    times = []
    for _ in range(calls):
        run.prepare()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter_ns()
        result = run.call()
        times.append((time.perf_counter_ns() - began) / 1e6)
        del result
    return statistics.median(times)


@cache
def _scratch(device: torch.device) -> torch.Tensor:
    return torch.empty(SCRATCH_BYTES, dtype=torch.uint8, device=device)


def _milliseconds(run: Run, device: torch.device, busy: bool) -> float:
    run.prepare()
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        _scratch(device).zero_()
        if not busy:
            torch.cuda.synchronize(device)
        start.record()
        result = run.call()
        end.record()
        end.synchronize()
        elapsed = start.elapsed_time(end)
    else:
        began = time.perf_counter_ns()
        result = run.call()
        elapsed = (time.perf_counter_ns() - began) / 1e6
    del result  # freed off the clock, whoever made it
    return elapsed
