"""The tables of the MoE layer benchmark, made from its JSON alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from moe_limits import limit_of
from moe_timing import paired

EAGER, PACKED, COMPILED, OURS = "eager floor", "packed floor", "compiled floor", "moezoo "
EXACT = {"float32": 1e-4, "bfloat16": 3e-2, "autocast": 3e-2}
"""Largest relative error of an implementation that computes the same function."""
Cell = Mapping[str, Any]


def tables(data: Mapping[str, Any]) -> str:
    """Everything as Markdown: each cell, ours beside the best exact peer, the limits, the machine."""
    cells = data["cells"]
    parts = [_cell(cell) for cell in cells]
    parts += ["## Ours over the best exact dropless peer", _peers(cells)]
    if on_cpu(data):  # what the limits are for
        parts += ["## Limits", _limits(cells)]
    parts.append(_machine(data))
    return "\n\n".join(part for part in parts if part)


def on_cpu(data: Mapping[str, Any]) -> bool:
    """Whether it was a CPU that was measured."""
    return data["machine"].get("device", "cpu").startswith("cpu")


def exact(cell: Cell, name: str) -> bool:
    """Whether an implementation computed every assignment, and what the reference computes."""
    row = cell["rows"][name]
    return not row["floor"] and not row["dropped"] and row["error"] <= EXACT[cell["dtype"]]


def best_peer(cell: Cell, *, compiled: bool = False) -> str | None:
    """The exact dropless peer with the lowest median of time over the eager floor, of the eager or compiled ones."""
    peers = [name for name in cell["rows"] if not name.startswith(OURS) and exact(cell, name)]
    names = [name for name in peers if name.endswith(" compiled") == compiled]
    return min(names, key=lambda name: paired(cell["samples"][name], cell["samples"][EAGER]).median, default=None)


def _cell(cell: Cell) -> str:
    work, samples, train = cell["workload"], cell["samples"], cell["mode"] == "train"
    bases = [base for base in (EAGER, PACKED, COMPILED) if base in samples]
    floor = paired(samples[EAGER], [1.0] * len(samples[EAGER])).median
    title = (
        f"## {work['name']}, {cell['dtype']}, {'training' if train else 'inference'}\n\n{work['tokens']} tokens, "
        f"{work['dim']} x {work['hidden']}, {work['num_experts']} experts, {work['top_k']} per token, fullest expert "
        f"{work['load']:.2f} x the mean; eager floor {floor:.2f} ms"
    )
    head = ["implementation", *(f"time / {base}" for base in bases), "rounds", "computes", "relative error", "drops"]
    head += ["saved for backward" if train else "second weights"]
    on_gpu = {"peak_bytes": "peak memory of a call", "host_ms": "host, ms"}
    head += [title for key, title in on_gpu.items() if key in cell["rows"][EAGER]]
    lines = []
    for name, row in cell["rows"].items():
        ratios = [paired(samples[name], samples[base]) for base in bases]
        line = [name, *("1" if name == base else str(r) for base, r in zip(bases, ratios, strict=True))]
        line += [str(ratios[0].rounds)]
        if row["floor"]:
            line += ["-", "-", "-"]
        else:
            same = "the same" if exact(cell, name) else "another function"
            dropped = "-" if row["dropped"] is None else f"{row['dropped']:.1%}" if row["dropped"] else "none"
            line += [same, f"{row['error']:.1e}", dropped]
        size = row.get("saved_bytes" if train else "packed_bytes", 0)
        line += [f"{size / 1e6:.1f} MB" if size else "-"]
        if "peak_bytes" in row:
            line += [f"{row['peak_bytes'] / 1e6:.1f} MB", f"{row['host_ms']:.2f}"]
        lines.append(line)
    lines += [[name, why, *[""] * (len(head) - 2)] for name, why in cell["absent"].items()]
    return title + "\n\n" + _table(head, lines)


def _peers(cells: Iterable[Cell]) -> str:
    lines = []
    for cell in cells:
        for name in _ours(cell):
            peer = best_peer(cell, compiled=name.endswith(" compiled"))
            ratio = "-" if peer is None else str(paired(cell["samples"][name], cell["samples"][peer]))
            lines.append([*_names(cell), name, peer or "none was run", ratio])
    return _table(["workload", "dtype", "mode", "ours", "best peer", "ours / peer"], lines)


def _limits(cells: Iterable[Cell]) -> str:
    lines = []
    for cell in cells:
        limit = limit_of(cell)
        if limit is None:
            continue
        base, most = limit
        for name in _ours(cell):
            if name.endswith("with losses"):
                continue
            if base not in cell["samples"]:
                lines.append([*_names(cell), name, f"{most:.2f} x {base}", "-", cell["absent"].get(base, "not run")])
                continue
            ratio = paired(cell["samples"][name], cell["samples"][base])
            met = "MISSED" if ratio.low > most else "met" if ratio.median <= most else "met within the interval"
            lines.append([*_names(cell), name, f"{most:.2f} x {base}", str(ratio), met])
    if not lines:
        return "No limit is set for these workloads."
    return _table(["workload", "dtype", "mode", "ours", "limit", "measured", "verdict"], lines)


def _ours(cell: Cell) -> list[str]:
    return [name for name in cell["rows"] if name.startswith(OURS)]


def _names(cell: Cell) -> list[str]:
    return [cell["workload"]["name"], cell["dtype"], cell["mode"]]


def _machine(data: Mapping[str, Any]) -> str:
    m = data["machine"]
    set_ = ", ".join(f"{name}={value}" for name, value in data["allocator"].items()) or "as it comes"
    return (
        "A figure is the median over the rounds of a time by the other's time in the same round, with the 90 % "
        "bootstrap interval of that median; a limit is met when the interval's lower end is. DeepSpeed, Tutel, "
        "fairscale, st_moe and lucid_moe compute their balance loss in the timed forward pass too; `with losses` is "
        "moezoo doing so. In inference `packed`, which `auto` takes, keeps reordered weights; no peer does, nor "
        "do `sorted` and `native`. `native` is the C++ kernel, which is compiled when asked for.\n\n"
        f"Measured on: {m['processor']}, {m['cores']} CPU cores, {m['threads']} threads, torch {m['torch']}, "
        f"{m['device']}; allocator: {set_}; moezoo {data['moezoo']}.\n\nCommand: `{data['command']}`"
    )


def _table(head: list[str], lines: list[list[str]]) -> str:
    rows = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
