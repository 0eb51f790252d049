"""Profile models by name, with fresh weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from moezoo.measure.bench import DTYPES, check_device, expand_names
from moezoo.measure.profile import profile
from moezoo.measure.profile_result import Profile
from moezoo.moe.checks import check_choice, check_int


def profile_models(
    names_or_patterns: str | Iterable[str],
    folder: str | Path,
    *,
    batch_size: int = 8,
    dtype: str = "float32",
    device: str | torch.device | None = None,
    steps: int = 5,
    warmup: int = 1,
    overrides: Mapping[str, Any] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[Path, Profile]:
    """:func:`~moezoo.measure.profile.profile` of each model, by the folder that its files went to.

    Args:
        names_or_patterns: As of :func:`~moezoo.measure.bench.run_bench`.
        folder: Gets a folder for each model.
        batch_size: Images in a step.
        dtype: Floating-point type the whole model is cast to.
        device: ``None`` takes CUDA where there is one, else the CPU.
        steps: That are traced.
        warmup: Steps before them.
        overrides: Configuration fields changed for every model.
        seed: Of the weights and the random input.
        progress: Called as ``progress(done, total, what)`` for one model after the other.

    Raises:
        ConfigError: An argument is out of range.
        UnknownModelError: A name or pattern fits no model.
        OutputError: ``folder`` cannot be written to.
    """
    from moezoo.factory import create_model

    check_choice("dtype", dtype, DTYPES)
    for argument, value, low in (("batch_size", batch_size, 1), ("steps", steps, 1), ("warmup", warmup, 0)):
        check_int(argument, value, low=low)
    where = check_device(device)
    found = {}
    for name in expand_names(names_or_patterns):
        own = Path(folder) / name.rpartition(":")[2].strip("/").replace("/", "-")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = create_model(name, **dict(overrides or {})).to(where, getattr(torch, dtype))
        found[own] = profile(
            model, own, name=name, batch_size=batch_size, steps=steps, warmup=warmup, seed=seed, progress=progress
        )
    return found
