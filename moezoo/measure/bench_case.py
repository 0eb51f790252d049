"""One case of a benchmark: a model, its dense twin and its plain backbone, built alike, measured together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from moezoo.backbones.inputs import example_images
from moezoo.errors import ConfigError
from moezoo.measure.bench_row import BenchRow
from moezoo.measure.flops import flops
from moezoo.measure.latency import Latency, latency, paired_ratio
from moezoo.measure.memory import peak_memory
from moezoo.measure.parameters import parameters

log = logging.getLogger(__name__)

COMPARISONS = ("dense", "backbone")


def build_case(
    name: str,
    compare: Sequence[str],
    overrides: dict[str, Any],
    dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> tuple[dict[str, nn.Module], dict[str, str]]:
    """The model and what it is compared with by role, and the errors of those that could not be built."""
    from moezoo.backbones.create import create_backbone
    from moezoo.factory import build, create_model

    models: dict[str, nn.Module] = {}
    failed: dict[str, str] = {}

    def attempt(role: str, create: Callable[[], nn.Module]) -> None:
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                models[role] = create().to(device, dtype).eval()
        except Exception as error:  # one bad model must not end a bulk run
            log.info("%s (%s) cannot be built: %s", name, role, error)
            failed[role] = _text(error)

    attempt("model", lambda: create_model(name, **overrides))
    if "model" in models:
        config: Any = models["model"].moezoo_config
        if "dense" in compare and (twin := _twin(config)) is not None:
            attempt("dense", lambda: build(twin))
        # One that a sighting passes through several times is no measure of the whole.
        if "backbone" in compare and hasattr(config, "model_name") and not hasattr(config, "modalities"):
            attempt("backbone", lambda: create_backbone(config))
    return models, failed


def _twin(config: Any) -> Any:
    """The dense twin's configuration; ``None`` of a model that is one, or a control that has none."""
    if getattr(config, "dense", None) is not False:
        return None
    try:
        return dataclasses.replace(config, dense=True)
    except ConfigError:
        return None


def measure_case(
    models: Mapping[str, nn.Module], blank: BenchRow, rounds: int, warmup: int, seed: int
) -> list[BenchRow]:
    """Rows of all roles, or error rows of those that cannot run."""
    rows: dict[str, BenchRow] = {}
    running: dict[str, nn.Module] = {}
    images = None
    for role, model in models.items():
        row = dataclasses.replace(blank, role=role)
        try:
            images = example_images(models["model"], blank.batch_size, seed) if images is None else images
            rows[role] = _costs(model, images, row)
            running[role] = model
        except Exception as error:
            rows[role] = _failure(row, error)
    try:
        times = latency(running, images, rounds=rounds, warmup=warmup) if running else {}
    except Exception as error:
        return [row if row.error else _failure(row, error) for row in rows.values()]
    for role, time in times.items():
        rows[role] = dataclasses.replace(
            rows[role],
            latency_p50=time.p50,
            latency_p95=time.p95,
            throughput=1000 * blank.batch_size / time.p50,
        )
    return [_compared(row, rows, times) for row in rows.values()]


def _costs(model: nn.Module, images: torch.Tensor, row: BenchRow) -> BenchRow:
    counted, sizes = flops(model, images), parameters(model)
    return dataclasses.replace(
        row,
        input_size=tuple(images.shape[1:]),
        flops=counted.executed,
        flops_analytic=counted.analytic,
        params_total=sizes.total,
        params_active=sizes.active,
        peak_memory=peak_memory(model, images),
    )


def _compared(row: BenchRow, rows: Mapping[str, BenchRow], times: Mapping[str, Latency]) -> BenchRow:
    """``row`` with its ratios to the other roles that ran."""
    changes: dict[str, Any] = {}
    for role in COMPARISONS:
        if role == row.role or role not in times or row.role not in times:
            continue
        ratio, low, high = paired_ratio(times[row.role].samples, times[role].samples)
        changes[f"latency_vs_{role}"] = ratio
        changes[f"latency_vs_{role}_quartiles"] = (low, high)
        ours, theirs = row.flops, rows[role].flops
        changes[f"flops_vs_{role}"] = ours / theirs if ours is not None and theirs else None
    return dataclasses.replace(row, **changes)


def _failure(row: BenchRow, error: Exception) -> BenchRow:
    log.info("%s (%s), batch %d, %s: %s", row.name, row.role, row.batch_size, row.dtype, error)
    return dataclasses.replace(row, error=_text(error))


def _text(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
