"""Benchmark models by name beside their dense twins and plain backbones, timed interleaved in one run."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from moezoo.errors import ConfigError, UnknownModelError
from moezoo.measure.bench_case import COMPARISONS, build_case, measure_case
from moezoo.measure.bench_row import BenchRow
from moezoo.measure.machine import machine
from moezoo.moe.checks import check_choice, check_int
from moezoo.names import is_stored_name
from moezoo.registry import list_models

DTYPES = ("float32", "bfloat16", "float16", "float64")


def run_bench(
    names_or_patterns: str | Iterable[str],
    *,
    batch_sizes: Sequence[int] = (1,),
    dtypes: Sequence[str] = ("float32",),
    device: str | torch.device | None = None,
    rounds: int = 20,
    warmup: int = 3,
    compare: Sequence[str] = COMPARISONS,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[BenchRow]:
    """Measure FLOPs, parameters, latency, throughput and peak memory of inference with fresh weights.

    A model that cannot be built or run becomes a row with the error's text, and the others go on.

    Args:
        names_or_patterns: Model names, unregistered ones such as ``entity_moe/resnet18`` included, and
            patterns for :func:`moezoo.list_models`.
        batch_sizes: Images per forward.
        dtypes: Floating-point types the whole model is cast to: float32, bfloat16, float16, float64.
        device: ``None`` takes CUDA where there is one, else the CPU.
        rounds: Timed forwards of each model.
        warmup: Forwards of each model before them.
        compare: What to measure beside each model: ``dense`` (its dense twin), ``backbone`` (the plain timm
            model).
        overrides: Configuration fields changed for every model.
        seed: Of the weights and the random images.
        progress: Called as ``progress(done, total, what)`` before each measurement and once at the end.

    Returns:
        For every name, type and batch size one row per role.

    Raises:
        ConfigError: An argument is out of range.
        UnknownModelError: A pattern matches no model.
    """
    for size in batch_sizes:
        check_int("batch_sizes", size, low=1)
    for dtype in dtypes:
        check_choice("dtypes", dtype, DTYPES)
    for role in compare:
        check_choice("compare", role, COMPARISONS)
    check_int("rounds", rounds, low=1)
    check_int("warmup", warmup, low=0)
    where = check_device(device)
    names = expand_names(names_or_patterns)
    work = [(name, dtype) for name in names for dtype in dtypes]
    total, rows = len(work) * len(batch_sizes), []
    for index, (name, dtype) in enumerate(work):
        if progress is not None:
            progress(index * len(batch_sizes), total, f"{name} {dtype}: building")
        models, failed = build_case(name, compare, dict(overrides or {}), getattr(torch, dtype), where, seed)
        for step, batch_size in enumerate(batch_sizes):
            if progress is not None:
                progress(index * len(batch_sizes) + step, total, f"{name} {dtype} batch {batch_size}")
            blank = BenchRow(
                name=name,
                role="model",
                batch_size=batch_size,
                dtype=dtype,
                device=str(where),
                **dataclasses.asdict(machine(where)),
            )
            rows += measure_case(models, blank, rounds, warmup, seed)
            rows += [dataclasses.replace(blank, role=role, error=text) for role, text in failed.items()]
        del models
        _free(where)
    if progress is not None:
        progress(total, total, "done")
    return rows


def expand_names(names_or_patterns: str | Iterable[str]) -> list[str]:
    """Names as they are and patterns as the registered names they match, each once, in order.

    Raises:
        ConfigError: There is nothing to measure.
        UnknownModelError: A pattern matches no model.
    """
    given = [names_or_patterns] if isinstance(names_or_patterns, str) else list(names_or_patterns)
    names: dict[str, None] = {}
    for name in given:
        if is_stored_name(name) or not any(sign in name for sign in "*?["):
            names[name] = None
            continue
        found = list_models(name)
        if not found:
            raise UnknownModelError(f"no registered model matches {name!r}; moezoo.list_models() shows every name.")
        names.update(dict.fromkeys(found))
    if not names:
        raise ConfigError("names_or_patterns is empty: name at least one model.")
    return list(names)


def check_device(device: str | torch.device | None) -> torch.device:
    """The device to measure on; ``None`` takes CUDA where there is one, else the CPU.

    Raises:
        ConfigError: It cannot be used.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device={str(device)!r} cannot be used: {error}") from error
    if where.type == "meta":
        raise ConfigError("device='meta' cannot be used: nothing runs there, so nothing can be timed.")
    return where


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
