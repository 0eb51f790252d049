"""Inject an adapter into every default architecture of timm on the meta device, and say what came of it.

    python benchmarks/coverage.py                       # all of them: about an hour on two cores, a few GB
    python benchmarks/coverage.py 'swin*' 'resnet*'     # some
    python benchmarks/coverage.py --where all           # behind every block instead of at the default place

Each architecture's answer is written at once to ``coverage.jsonl`` in the output folder, and a second run asks only
for those that are not there. A crash or a hang is an answer too. At the end stand ``coverage.json`` (everything) and
``coverage.md`` (a table per family of architectures, and every exception with its reason).

Nothing is trained or downloaded, and no tensor has memory. Asked of each architecture, independently of how injection
found the place: Are the backbone's state-dict keys what they were? Did every adapter run exactly once? Does a gradient
get from the logits to it? Is it outside stem and head, and in the learning-rate group of the block it follows? Do the
maps of ``features_only=True`` have the channels and reductions that ``feature_info`` states?
"""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Any

import typer
from archs import architectures, cell, family, read_log
from workers import run_all

WHERE = {"default": None, "all": "all"}
NO_BLOCK = re.compile(r"(^|\.)(\w*stem|patch_embed|head|classifier|fc|final_conv|conv_head|aux)\w*\.")
"""Paths at which an adapter follows no block."""


def main(
    patterns: Annotated[list[str] | None, typer.Argument(help="architectures, by fnmatch patterns")] = None,
    out: Annotated[Path, typer.Option(help="folder of the results")] = Path("coverage"),
    where: Annotated[str, typer.Option(help="default: the default place; all: behind every block")] = "default",
    jobs: Annotated[int, typer.Option(help="processes")] = 2,
    limit: Annotated[float, typer.Option(help="seconds for one architecture")] = 300.0,
    fresh: Annotated[bool, typer.Option("--fresh", help="forget earlier answers")] = False,
    retry: Annotated[bool, typer.Option("--retry", help="ask again where the earlier answer is not good")] = False,
) -> None:
    """Scan and write the three files."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if where not in WHERE:
        raise typer.BadParameter(f"{where!r} is not one of {', '.join(WHERE)}", param_hint="--where")
    out.mkdir(parents=True, exist_ok=True)
    log = out / "coverage.jsonl"
    if fresh:
        log.unlink(missing_ok=True)
    archs = architectures(patterns or ["*"])
    known = {row["arch"]: row for row in read_log(log) if row["where"] == where}
    if retry:
        known = {arch: row for arch, row in known.items() if not row["injected"] and not row.get("features")}
    todo = [arch for arch in archs if arch not in known]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar, log.open("a", encoding="utf-8") as file:
        task = bar.add_task("timm", total=len(archs), completed=len(archs) - len(todo))
        for (arch, _), answer, fate in run_all(examine, [(arch, where) for arch in todo], jobs, limit):
            row = answer or {"arch": arch, "where": where, "family": family(arch), "injected": fate}
            known[arch] = row
            file.write("\n" + json.dumps(row))  # in front: the last line of a run that was killed may be cut off
            file.flush()
            bar.update(task, advance=1, description=f"{arch:<40.40}")
    rows = [known[arch] for arch in archs]
    (out / "coverage.json").write_text(json.dumps(summary(rows), indent=1) + "\n", encoding="utf-8")
    (out / "coverage.md").write_text(table(rows), encoding="utf-8")
    Console().print(table(rows), markup=False, soft_wrap=True)


def examine(arch: str, where: str) -> dict[str, Any]:
    """One architecture's answer: ``injected`` and ``features`` are empty or say what is wrong."""
    import torch

    torch.set_num_threads(1)
    start = time.monotonic()
    row: dict[str, Any] = {"arch": arch, "where": where, "family": family(arch)}
    for question, ask in {"injected": _injection, "features": _features}.items():
        if question == "features" and where != "default":
            continue
        try:
            row.update(ask(arch, WHERE[where]), **{question: ""})
        except Exception as error:
            row[question] = f"{type(error).__name__}: {error}"[:400]
    row["seconds"] = round(time.monotonic() - start, 2)
    return row


def _injection(arch: str, where: Any) -> dict[str, Any]:
    import timm
    import torch
    from timm.models import group_parameters
    from torch.utils._pytree import tree_leaves

    import moezoo
    from moezoo.backbones.inject import adapters_of

    with torch.device("meta"):
        model = timm.create_model(arch).eval()
        images = torch.empty(2, *model.pretrained_cfg["input_size"])
    keys = list(model.state_dict())
    moezoo.inject_moe(model, where, num_experts=2, num_experts_shared=1, expert_dim=8, mlp_ratio=0.1)
    adapters = adapters_of(model)
    if [key for key in model.state_dict() if ".entity_moe." not in key] != keys:
        raise AssertionError("the backbone's keys changed")
    calls = dict.fromkeys(adapters, 0)
    for name, adapter in adapters.items():
        adapter.register_forward_hook(lambda *_, name=name: calls.__setitem__(name, calls[name] + 1))
    logits = [t for t in tree_leaves(model(images)) if isinstance(t, torch.Tensor) and t.requires_grad]
    if wrong := {name: count for name, count in calls.items() if count != 1}:
        raise AssertionError(f"adapters ran another number of times than once: {wrong}")
    total = sum(t.float().sum() for t in logits)
    weights = [adapter.ffn.fc2.weight for adapter in adapters.values()]
    grads = torch.autograd.grad(total, weights, allow_unused=True)
    if any(grad is None for grad in grads):
        raise AssertionError("an adapter does not reach the logits")
    if wrong := [name for name in adapters if NO_BLOCK.search(name)]:
        raise AssertionError(f"not behind a block: {wrong}")
    if hasattr(model, "group_matcher"):
        groups = group_parameters(model, model.group_matcher(coarse=False), reverse=True)
        order = [key for key, _ in model.named_parameters()]
        for name in adapters:
            own = {groups[key] for key in order if key.startswith(f"{name}.")}
            host = name.rpartition(".")[0]
            hosts = [key for key in order if key.startswith(f"{host}.") and not key.startswith(f"{name}.")]
            first = next(i for i, key in enumerate(order) if key.startswith(f"{name}."))
            hosts = hosts or order[first - 1 : first]  # the block has no parameters: those of the layer before
            if not own <= {groups[key] for key in hosts}:
                raise AssertionError(f"{name} is in learning-rate group {own}, its block {hosts} is in another")
    return {"places": list(adapters), "layouts": sorted({a.site.layout for a in adapters.values()})}


def _features(arch: str, where: Any) -> dict[str, Any]:
    import torch

    import moezoo

    def run(device: str) -> tuple[Any, list[Any]]:
        with torch.device(device), torch.no_grad():
            model = moezoo.create_model(f"entity_moe/{arch}", features_only=True, expert_dim=8, mlp_ratio=0.1).eval()
            return model, model(torch.zeros(1, *model.pretrained_cfg["input_size"]))

    try:
        model, maps = run("meta")
    except RuntimeError as error:
        if "meta" not in str(error):
            raise
        model, maps = run("cpu")  # it reads values of tensors (Gemma 4)
    _, height, width = model.pretrained_cfg["input_size"]
    got = [tuple(m.shape) for m in maps]
    stated = list(zip(model.feature_info.channels(), model.feature_info.reduction(), strict=True))
    for (_, channels, rows, columns), (want, reduction) in zip(got, stated, strict=True):
        # Without padding a network loses a few rows (Inception), which is no other reduction.
        wanted = ((rows, height / reduction), (columns, width / reduction))
        sides = all(abs(side - full) < 2 or full / side < 1.2 for side, full in wanted)
        if channels != want or not sides:
            raise AssertionError(f"maps {got}, stated (channels, reduction) {stated}")
    return {"maps": len(got)}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts, versions, and every row."""
    import timm
    import torch

    import moezoo

    versions = {"moezoo": moezoo.__version__, "timm": timm.__version__, "torch": torch.__version__}
    return {"versions": versions, "architectures": len(rows), "injected": _good(rows, "injected"), "rows": rows}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a line per family, the total, and the exceptions."""
    families: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        families[row["family"]].append(row)
    head = "| family | architectures | injected | feature maps right | layouts | adapters per model |"
    lines = [head, "|---|---:|---:|---:|---|---|"]
    for name, members in sorted(families.items()):
        layouts = sorted({layout for row in members for layout in row.get("layouts", ())})
        counts = sorted({len(row["places"]) for row in members if row.get("places")})
        span = "-" if not counts else str(counts[0]) if counts[0] == counts[-1] else f"{counts[0]}-{counts[-1]}"
        figures = [len(members), _good(members, "injected"), _maps(members), ", ".join(layouts), span]
        lines.append(f"| {name} | " + " | ".join(map(str, figures)) + " |")
    good = _good(rows, "injected")
    share = f"{good} ({good / max(len(rows), 1):.1%})"
    lines.append(f"| **all** | **{len(rows)}** | **{share}** | **{_maps(rows)}** | | |")
    for question in ("injected", "features"):
        bad = [row for row in rows if row.get(question)]
        if bad:
            lines += ["", f"Not {question}:", "", "| architecture | reason |", "|---|---|"]
            lines += [f"| {row['arch']} | {cell(row[question])} |" for row in bad]
    return "\n".join(lines) + "\n"


def _good(rows: list[dict[str, Any]], question: str) -> int:
    return sum(row.get(question) == "" for row in rows)


def _maps(rows: list[dict[str, Any]]) -> str:
    return str(_good(rows, "features")) if any("features" in row for row in rows) else "not asked"


if __name__ == "__main__":
    typer.run(main)
