"""Upcycle every default architecture of timm on the meta device, and say what came of it.

    python benchmarks/upcyclable.py                       # all of them: an hour or two on two cores, a few GB
    python benchmarks/upcyclable.py 'swin*' 'resnet*'     # some
    python benchmarks/upcyclable.py --sample              # one of each module of timm: minutes

Each architecture's answer is written at once to ``upcyclable.jsonl`` in the output folder, and a second run asks only
for those that are not there. A crash or a hang is an answer too. At the end stand ``upcyclable.json`` (everything) and
``upcyclable.md`` (a table per family of architectures, and the reasons of every refusal).

An architecture is asked for MLPs in all of its blocks; if some have none, in the last half of them; if some of these
have none, in those blocks that have. What is counted as upcycled is checked besides: every mixture runs exactly once in
a forward, a gradient gets from the logits to its experts, and a dense state dict loads with ``strict=True``. Nothing is
trained or downloaded, and no tensor has memory.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer
from archs import architectures, cell, family, read_log
from workers import run_all

SMALL = (
    "test_",
    "atto",
    "femto",
    "pico",
    "nano",
    "tiny",
    "_ti",
    "xxs",
    "xs",
    "_t",
    "small",
    "_s",
    "b0",
    "a0",
    "18",
    "26",
)
"""Parts of the names of small architectures, the smallest first."""
GRADES = ("all", "last_half", "some", "none")
"""Where there are MLPs: in all blocks, in those of the last half, in some blocks, in none."""


def main(
    patterns: Annotated[list[str] | None, typer.Argument(help="architectures, by fnmatch patterns")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = Path("upcyclable"),
    jobs: Annotated[int, typer.Option(help="processes")] = 2,
    limit: Annotated[float, typer.Option(help="seconds for one architecture")] = 300.0,
    sample: Annotated[bool, typer.Option("--sample", help="one architecture of each module")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget earlier answers")] = False,
) -> None:
    """Scan and write the three files."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    out.mkdir(parents=True, exist_ok=True)
    log = out / "upcyclable.jsonl"
    if fresh:
        log.unlink(missing_ok=True)
    archs = architectures(patterns or ["*"])
    if sample:
        archs = _one_per_family(archs)
    known = {row["arch"]: row for row in read_log(log)}
    todo = [arch for arch in archs if arch not in known]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, log.open("a", encoding="utf-8") as file:
        task = bar.add_task("timm", total=len(archs), completed=len(archs) - len(todo))
        for (arch,), answer, fate in run_all(examine, [(arch,) for arch in todo], jobs, limit):
            row = answer or {"arch": arch, "family": family(arch), "grade": "none", "reason": fate}
            known[arch] = row
            file.write("\n" + json.dumps(row))  # in front: the last line of a run that was killed may be cut off
            file.flush()
            bar.update(task, advance=1, description=f"{arch:<40.40}")
    rows = [known[arch] for arch in archs]
    (out / "upcyclable.json").write_text(json.dumps(summary(rows), indent=1) + "\n", encoding="utf-8")
    (out / "upcyclable.md").write_text(table(rows), encoding="utf-8")
    Console().print(table(rows), markup=False, soft_wrap=True)


def examine(arch: str) -> dict[str, Any]:
    """One architecture's answer: its grade, the MLPs that were upcycled, and why there are not more."""
    import torch

    from moezoo.errors import InjectionError

    torch.set_num_threads(1)
    start = time.monotonic()
    row: dict[str, Any] = {"arch": arch, "family": family(arch), "grade": "none", "reason": ""}
    blocks: list[str] = []
    for grade in GRADES[:3]:
        try:
            row.update(mlps=_upcycle(arch, blocks if grade == "some" else grade), grade=grade)
            break
        except InjectionError as error:
            row["reason"] = row["reason"] or _short(str(error))
            if having := re.search(r"There are MLPs in (.+): name those by where=", str(error)):
                blocks = having[1].split(", ")
            elif grade == "last_half":
                break
        except Exception as error:
            row["reason"] = f"{type(error).__name__}: {error}"[:300]
            break
    row["seconds"] = round(time.monotonic() - start, 2)
    return row


def _upcycle(arch: str, where: Any) -> int:
    """How many MLPs of the architecture were upcycled and passed the checks."""
    import warnings

    import timm
    import torch
    from torch.utils._pytree import tree_leaves

    import moezoo
    from moezoo.backbones.upcycled import UpcycledMLP

    with torch.device("meta"):
        model = timm.create_model(arch).eval()
        images = torch.empty(2, *model.pretrained_cfg["input_size"])
    dense = model.state_dict()
    moezoo.upcycle(model, where, num_experts=2, top_k=2)
    made = {name: part for name, part in model.named_modules() if isinstance(part, UpcycledMLP)}
    calls = dict.fromkeys(made, 0)
    for name, part in made.items():
        part.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    logits = [t for t in tree_leaves(model(images)) if isinstance(t, torch.Tensor) and t.requires_grad]
    if wrong := {name: count for name, count in calls.items() if count != 1}:
        raise AssertionError(f"MLPs ran another number of times than once: {wrong}")
    weights = [part.moe.experts.w_in for part in made.values()]
    grads = torch.autograd.grad(sum(t.float().sum() for t in logits), weights, allow_unused=True)
    if missed := [name for name, grad in zip(made, grads, strict=True) if grad is None]:
        raise AssertionError(f"the logits do not depend on {missed}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that loading meta tensors copies nothing
        model.load_state_dict(dense, strict=True)
    return len(made)


def _one_per_family(archs: list[str]) -> list[str]:
    """A small architecture of each module of timm."""
    families: dict[str, list[str]] = defaultdict(list)
    for arch in archs:
        families[family(arch)].append(arch)

    def size(arch: str) -> tuple[int, int, str]:
        return next((i for i, part in enumerate(SMALL) if part in arch), len(SMALL)), len(arch), arch

    return sorted(min(members, key=size) for members in families.values())


def _short(message: str) -> str:
    """Why a place was refused: the kinds of blocks without an MLP, and the first reason given."""
    pattern = r"no MLP to upcycle in .*?\(([^)]*)\)\.(.*?)\.? (?:There are MLPs|The blocks are)"
    kinds = re.search(pattern, message, re.DOTALL)
    if not kinds:
        return message[:300]
    reason = re.sub(r"^\S+: ", "", kinds[2].split(";")[0]).strip()
    return f"no MLP in {kinds[1]}" + (f" ({reason})" if reason else "")


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, versions, and every row."""
    import timm
    import torch

    import moezoo

    versions = {"moezoo": moezoo.__version__, "timm": timm.__version__, "torch": torch.__version__}
    return {"versions": versions, "architectures": len(rows), "grades": _grades(rows), "rows": rows}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per family, the total, and the reasons why blocks were refused."""
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    lines = ["| family | architectures | all blocks | last half | some blocks | none | MLPs per model |"]
    lines.append("|---|---:|---:|---:|---:|---:|---|")
    for name, members in sorted(families.items()):
        counts = sorted(row["mlps"] for row in members if row.get("mlps"))
        span = "-" if not counts else str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]}-{counts[-1]}"
        lines.append(f"| {name} | {len(members)} | " + " | ".join(map(str, [*_grades(members).values(), span])) + " |")
    totals = [f"**{count} ({count / max(len(rows), 1):.1%})**" for count in _grades(rows).values()]
    lines.append(f"| **all** | **{len(rows)}** | " + " | ".join(totals) + " | |")
    lines += ["", "Why not in all blocks:", "", "| family | reason | architectures |", "|---|---|---|"]
    for name, members in sorted(families.items()):
        reasons = Counter(row["reason"] for row in members if row["reason"])
        for reason, count in reasons.most_common():
            example = next(row["arch"] for row in members if row["reason"] == reason)
            lines.append(f"| {name} | {cell(reason)} | {example}{f' and {count - 1} more' if count > 1 else ''} |")
    return "\n".join(lines) + "\n"


def _grades(rows: list[dict[str, Any]]) -> dict[str, int]:
    return {grade: sum(row["grade"] == grade for row in rows) for grade in GRADES}


if __name__ == "__main__":
    typer.run(main)
