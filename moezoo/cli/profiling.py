"""``moezoo bench --profile``: traces of models, and what they say."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from moezoo.errors import ConfigError

T = TypeVar("T")


def print_profiles(
    names: Sequence[str],
    folder: Path,
    *,
    batch_sizes: Sequence[int],
    dtypes: Sequence[str],
    out: Sequence[Path],
    assignments: Sequence[str],
    threads: int | None,
    **options: Any,
) -> None:
    """Profile the models, print the tables, draw the pictures, and say where the files are.

    Raises:
        ConfigError: There are several batch sizes or types, or files for the comparison that is not made.
    """
    for flag in ("KINETO_LOG_LEVEL", "TORCH_CPP_LOG_LEVEL"):  # read once, when torch is imported
        os.environ.setdefault(flag, {"KINETO_LOG_LEVEL": "99"}.get(flag, "ERROR"))
    import torch
    from rich.console import Console

    from moezoo.cli.counting import stepped
    from moezoo.config import parse_assignments
    from moezoo.measure.profile_models import profile_models
    from moezoo.measure.profile_table import profile_tables
    from moezoo.moe.checks import check_int
    from moezoo.viz import save_figure
    from moezoo.viz.profile import memory_figure, profile_figure

    if out:
        raise ConfigError(f"--out={out[0]} does not go with --profile, whose files go to --profile-dir.")
    if threads is not None:
        torch.set_num_threads(check_int("threads", threads, low=1))
    console = Console()
    with stepped("profile", unequal=True) as tell:
        profiles = profile_models(
            names,
            folder,
            batch_size=_only("--batch-size", batch_sizes, 8),
            dtype=_only("--dtype", dtypes, "float32"),
            overrides=parse_assignments(list(assignments)),
            progress=tell,
            **options,
        )
    for own, profile in profiles.items():
        console.print(profile_tables(profile))
        save_figure(profile_figure(profile), own / "profile.png")
        save_figure(memory_figure(profile), own / "memory.png")
        for path in sorted(own.iterdir()):
            console.print(f"  {path}", soft_wrap=True, markup=False)
    console.print("The traces open in https://ui.perfetto.dev and in chrome://tracing.")


def _only(option: str, values: Sequence[T], default: T) -> T:
    if len(values) > 1:
        raise ConfigError(f"{option} is given {len(values)} times; with --profile it may be given once.")
    return values[0] if values else default
