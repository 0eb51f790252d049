"""Time of one MoE layer beside its dense floors and other libraries' layers, in interleaved rounds of one process.

    python benchmarks/moe_layer.py --workloads vits_e8k2 --dtypes float32          # two minutes on two cores
    python benchmarks/moe_layer.py --json moe_layer.json --markdown moe_layer.md   # everything: about an hour
    python benchmarks/moe_layer.py --rebuild moe_layer.json                        # the tables of an earlier run
    python benchmarks/moe_layer.py --paths auto,sorted,loop --peers none           # our own paths
    python benchmarks/moe_layer.py --workloads vits_e8k2 --profile                 # where our time goes
    python benchmarks/moe_layer.py --device cuda --workloads vitb256_e8k2 --dtypes bfloat16,autocast --compiled

A figure is the median, over the rounds, of a time by the floor's time in the same round. The floors are one dense FFN
over as many rows as the experts get: eager, and for inference on a CPU also prepacked, since packed experts are to be
compared with a packed FFN. Training is a forward and a backward pass with a fixed gradient of the output, the input's
gradient included. ``autocast`` is float32 weights and tokens with the products in bfloat16. ``--compiled`` adds the
floor, our first path and transformers' grouped product through ``torch.compile``. Routing is in every MoE time and in
no floor. Libraries that are not installed are shown as absent: the extra ``bench`` installs those that pip can.

The C allocator matters: by default glibc gives big tensors back to the system at once, and the floor pays for the page
faults. These settings keep the memory:

    MALLOC_TOP_PAD_=268435456 MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=4294967296
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import json
import sys
import weakref
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from moe_floors import DenseFFN, PackedFFN
from moe_peers import OTHER_FUNCTION, PEERS
from moe_profile import profile_table
from moe_tables import COMPILED, EAGER, PACKED, tables
from moe_timing import Run, allocator, host_milliseconds, interleave, peak_above
from moe_workloads import AUTOCAST, DEFAULT, DTYPES, NotRun, Problem, Workload, parse_workload, split_names
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

import moezoo
from moezoo.measure.machine import machine
from moezoo.moe import MoELayer, build_native
from moezoo.moe.paths.packs import packed_bytes

MODES = ("infer", "train")
FLOORS = (EAGER, PACKED, COMPILED)
KINDS = (*DTYPES, AUTOCAST)
COMPILED_PEER = "transformers_grouped"
Tick = Callable[[float, str], None]


def main(
    workloads: Annotated[str, typer.Option(help="<shape>_e<E>k<K>[_skew], comma-separated")] = DEFAULT,
    dtypes: Annotated[str, typer.Option(help="comma-separated, of " + ", ".join(KINDS))] = "float32,bfloat16",
    modes: Annotated[str, typer.Option(help="infer, train or both")] = "infer,train",
    paths: Annotated[str, typer.Option(help="paths of MoELayer, one row each")] = "auto",
    peers: Annotated[str, typer.Option(help="all, none, or names: " + ", ".join(PEERS))] = "all",
    compiled: Annotated[bool, typer.Option("--compiled", help="time some through torch.compile as well")] = False,
    rounds: Annotated[int | None, typer.Option(min=1, help="rounds of a cell, instead of --seconds")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="of a cell; five rounds at least")] = 20.0,
    device: Annotated[str, typer.Option(help="cpu or cuda")] = "cpu",
    threads: Annotated[int | None, typer.Option(min=1, help="threads inside an operator")] = None,
    seed: Annotated[int, typer.Option(help="of weights, tokens and order")] = 0,
    json_file: Annotated[Path | None, typer.Option("--json", help="write every round; updated after each cell")] = None,
    markdown: Annotated[Path | None, typer.Option(help="write the tables")] = None,
    rebuild: Annotated[Path | None, typer.Option(help="measure nothing: tables of this --json file")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="show the pieces of our time instead")] = False,
) -> None:
    """Measure every workload in every type and mode, and print the tables."""
    if rebuild is not None:
        _publish(json.loads(rebuild.read_text(encoding="utf-8")), None, markdown)
        return
    if threads is not None:
        torch.set_num_threads(threads)
    where = torch.device(device)
    works = [_parsed(name) for name in workloads.split(",")]
    cells = [
        (work, dtype, mode)
        for work in works
        for dtype in split_names(dtypes, KINDS, "--dtypes")
        for mode in split_names(modes, MODES, "--modes")
    ]
    ours = split_names(paths, our_paths(), "--paths")
    if "native" in ours:
        build_native()
    others = [] if peers == "none" else list(PEERS) if peers == "all" else split_names(peers, PEERS, "--peers")
    if profile:
        for work, dtype, mode in cells:
            problem = Problem(work, dtype, where, seed)
            for path in ours:
                print(f"\n{work.name}, {dtype}, {mode}, path {path}\n")
                print(profile_table(_ours(problem, path), problem, train=mode == "train", rounds=rounds or 10))
        return
    data: dict[str, Any] = {
        "command": " ".join(["python", "benchmarks/moe_layer.py", *sys.argv[1:]]),
        "moezoo": moezoo.__version__,
        "machine": dataclasses.asdict(machine(where)) | {"device": str(where)},
        "allocator": allocator(),
        "cells": [],
    }
    bar = Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=Console(stderr=True))
    with bar:
        task = bar.add_task("", total=len(cells))
        for index, (work, dtype, mode) in enumerate(cells):
            title = f"{work.name} {dtype} {mode}"

            def tick(share: float, what: str, index=index, title=title) -> None:
                bar.update(task, completed=index + share, description=f"{title}: {what}")

            problem = Problem(work, dtype, where, seed)
            how: Any = {"rounds": rounds, "seconds": seconds, "seed": seed, "tick": tick}
            data["cells"].append(measure_cell(problem, mode, ours, others, compiled=compiled, **how))
            forget()
            if json_file is not None:
                json_file.write_text(json.dumps(data), encoding="utf-8")
    _publish(data, json_file, markdown)


def measure_cell(
    problem: Problem,
    mode: str,
    paths: list[str],
    peers: list[str],
    *,
    compiled: bool = False,
    busy: bool = False,
    rounds: int | None = None,
    seconds: float = 0.0,
    seed: int = 0,
    tick: Tick = lambda share, what: None,
) -> dict[str, Any]:
    """One workload in one type and mode: what every implementation computes and keeps, and its time in each round.

    Returns:
        Plain values, ready for JSON: ``samples`` holds milliseconds by implementation, ``rows`` what else is known of
        each, ``absent`` why the others were not run.
    """
    work, train = problem.workload, mode == "train"
    makers: dict[str, Callable[[], nn.Module]] = {EAGER: lambda: DenseFFN(*problem.ffns()[0])}
    if not train and problem.x.device.type == "cpu":
        makers[PACKED] = lambda: PackedFFN(*problem.ffns()[0], rows=work.rows)
    makers |= {f"moezoo {path}": partial(_ours, problem, path) for path in paths}
    if train and paths:
        makers[f"moezoo {paths[0]} with losses"] = partial(_ours, problem, paths[0], losses=True)
    makers |= {name: partial(PEERS[name], problem) for name in peers}
    if compiled:
        named = {EAGER: COMPILED} | {name: f"{name} compiled" for name in (f"moezoo {paths[0]}", COMPILED_PEER)}
        makers |= {new: partial(_compiled, makers[name]) for name, new in named.items() if name in makers}
    runs: dict[str, Run] = {}
    rows: dict[str, dict[str, Any]] = {}
    absent: dict[str, str] = {}
    for index, (name, make) in enumerate(makers.items()):
        tick(0.0, f"building {name} ({index + 1} of {len(makers)})")
        try:
            # Libraries print and log while they are imported and built; standard output is for the tables.
            with contextlib.redirect_stdout(sys.stderr):
                module = make().to(problem.x.device).train(train)
                runs[name], rows[name] = _prepare(module, problem, train, floor=name in FLOORS)
        except ImportError as error:
            absent[name] = f"absent ({error.name or 'an import'} is not installed)"
        except Exception as error:  # whatever a library stumbles over is its row's text
            absent[name] = _reason(error)
        if name in OTHER_FUNCTION and name in rows:
            rows[name]["dropped"] = None
    samples = interleave(
        runs,
        rounds=rounds,
        seconds=seconds,
        device=problem.x.device,
        seed=seed,
        busy=busy,
        tick=lambda share: tick(share, "timing"),
    )
    if problem.x.is_cuda:
        for name, run in runs.items():
            rows[name]["host_ms"] = host_milliseconds(run, problem.x.device)
    shape = dataclasses.asdict(work) | {"tokens": work.tokens, "load": problem.load}
    return {"workload": shape, "dtype": problem.kind, "mode": mode, "samples": samples, "rows": rows, "absent": absent}


def _prepare(module: nn.Module, problem: Problem, train: bool, *, floor: bool) -> tuple[Run, dict[str, Any]]:
    """What to time, after a first call that shows what the module computes and keeps."""
    work = problem.workload
    x, grad = problem.x, problem.grad
    if floor:
        x, grad = (t.repeat_interleave(work.top_k, dim=0) for t in (x, grad))
    facts: dict[str, Any] = {"floor": floor}
    if not train:

        def infer() -> torch.Tensor:
            with torch.no_grad(), problem.precision():
                return module(x)

        out = infer()
        facts["packed_bytes"] = packed_bytes(module)
        run = Run(infer)
    else:
        x = x.clone().requires_grad_()
        with problem.precision():
            out, facts["saved_bytes"] = saved_for_backward(module, x)
        grad = grad.to(out.dtype)

        def reset() -> None:
            x.grad = None
            module.zero_grad(set_to_none=True)

        def step() -> torch.Tensor:
            with problem.precision():
                out = module(x)
            out.backward(grad)
            return out

        out = out.detach()  # with its graph it would stay for the peak
        step()
        run = Run(step, reset)
    if x.is_cuda:
        facts["peak_bytes"] = peak_above(run, x.device)
    if not floor:
        facts |= {"error": problem.relative_error(out), "dropped": problem.dropped_share(out)}
    return run, facts


def saved_for_backward(module: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, int]:
    """The output, and the bytes its graph keeps, each storage once; parameters and ``x`` are there anyway."""
    here = {t.untyped_storage()._cdata for t in (x, *module.parameters(), *module.buffers())}
    kept: dict[int, weakref.ref] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in here:
            kept[storage._cdata] = weakref.ref(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module(x)
    return out, sum(storage.nbytes() for reference in kept.values() if (storage := reference()) is not None)


def forget() -> None:
    """Free what a cell left: some libraries' modules hold themselves, and compiled code is of one shape each."""
    gc.collect()
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _compiled(make: Callable[[], nn.Module]) -> nn.Module:
    return torch.compile(make(), dynamic=False)


def _ours(problem: Problem, path: str, *, losses: bool = False) -> MoELayer:
    work = problem.workload
    with torch.device("meta"):
        layer = MoELayer(
            work.dim,
            num_experts=work.num_experts,
            top_k=work.top_k,
            hidden_dim=work.hidden,
            path=path,
            aux_weights=None if losses else {},
        )
    layer.router.weight = nn.Parameter(problem.router)
    for name in ("w_in", "b_in", "w_out", "b_out"):
        setattr(layer.experts, name, nn.Parameter(getattr(problem, name)))
    return layer


def our_paths() -> tuple[str, ...]:
    """The paths that a layer of MLP experts takes."""
    with torch.device("meta"):
        return ("auto", *MoELayer(8, num_experts=2, hidden_dim=8).experts.paths)


def _reason(error: Exception) -> str:
    text = " ".join((str(error).strip() or "no message").splitlines()[0].split())
    if isinstance(error, NotRun):
        return text
    return f"failed: {type(error).__name__}: {text[:160]}"


def _parsed(name: str) -> Workload:
    try:
        return parse_workload(name)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--workloads") from error


def _publish(data: dict[str, Any], json_file: Path | None, markdown: Path | None) -> None:
    text = tables(data)
    print(text)
    if json_file is not None:
        json_file.write_text(json.dumps(data), encoding="utf-8")
    if markdown is not None:
        markdown.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
