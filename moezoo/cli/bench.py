"""``moezoo bench``: FLOPs, parameters, latency and memory, beside the dense twin and the plain backbone; profiles."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moezoo.cli.options import Fields


def bench(
    names: Annotated[
        list[str],
        typer.Argument(help="model names or patterns, for example entity_moe/vit_tiny 'entity_moe/swin*'"),
    ],
    batch_size: Annotated[
        list[int] | None, typer.Option("--batch-size", "-b", help="images per forward; may be repeated")
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="float32, bfloat16, float16 or float64; may be repeated")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; by default CUDA where there is one")] = None,
    rounds: Annotated[int, typer.Option(help="timed forwards of each model")] = 20,
    warmup: Annotated[int, typer.Option(help="forwards before them")] = 3,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads inside an operator; by default torch's choice")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the weights and the images")] = 0,
    compare: Annotated[
        bool, typer.Option(help="measure the dense twin and the plain backbone beside each model")
    ] = True,
    set_: Fields = None,
    out: Annotated[
        list[Path] | None,
        typer.Option("--out", "-o", help="also write a .md, .csv or .json file; may be repeated"),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="instead trace steps of inference and training: where time and memory go")
    ] = False,
    profile_dir: Annotated[
        Path, typer.Option(help="with --profile: gets a folder for each model, with traces, pictures and profile.json")
    ] = Path("profile"),
    steps: Annotated[int, typer.Option(help="with --profile: steps that are traced")] = 5,
) -> None:
    """Measure models with fresh weights; all models of one line are timed interleaved in one run."""
    if profile:
        from moezoo.cli.profiling import print_profiles

        print_profiles(
            names,
            profile_dir,
            batch_sizes=batch_size or [],
            dtypes=dtype or [],
            out=out or [],
            assignments=set_ or [],
            threads=threads,
            device=device,
            steps=steps,
            warmup=warmup,
            seed=seed,
        )
        return
    import shlex
    import sys

    import torch
    from rich.console import Console

    from moezoo.cli.counting import stepped
    from moezoo.config import parse_assignments
    from moezoo.measure.bench import run_bench
    from moezoo.measure.bench_case import COMPARISONS
    from moezoo.measure.bench_row import check_output, write_rows
    from moezoo.measure.bench_table import bench_tables
    from moezoo.moe.checks import check_int

    for path in out or []:
        check_output(path)
    if threads is not None:
        torch.set_num_threads(check_int("threads", threads, low=1))
    console = Console()
    with stepped("bench", unequal=True) as tell:
        rows = run_bench(
            names,
            batch_sizes=batch_size or [1],
            dtypes=dtype or ["float32"],
            device=device,
            rounds=rounds,
            warmup=warmup,
            compare=COMPARISONS if compare else (),
            overrides=parse_assignments(set_ or []),
            seed=seed,
            progress=tell,
        )
    console.print(bench_tables(rows))
    script = Path(sys.argv[0])
    program = ["python", str(script)] if script.suffix == ".py" and script.stem != "__main__" else ["moezoo"]
    for path in out or []:
        write_rows(rows, path, command=shlex.join([*program, *sys.argv[1:]]))
        console.print(f"  {path}", soft_wrap=True)
    failures: dict[str, list[str]] = {}
    for row in rows:
        if row.error is not None:
            failures.setdefault(f"{row.name} ({row.role}): {row.error}", []).append(
                f"{row.dtype} batch {row.batch_size}"
            )
    for text, cases in failures.items():
        console.print(f"{text} [{', '.join(cases)}]", style="red", markup=False, soft_wrap=True)
    if failures:
        raise typer.Exit(1)
