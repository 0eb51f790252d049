"""On paper: memory, traffic and the break-even of expert parallelism from 1 to 1,024 GPUs; writes scaling.md.

python benchmarks/scaling.py                 # two minutes; most of it counts the bytes of small gloo runs
python benchmarks/scaling.py --images 128 --inside 300e9 --between 25e9      # other hardware, printed only
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer
from scaling_links import H100, Hardware, break_even, estimate
from scaling_model import Layout, Vit, memory
from scaling_text import AFTER, BEFORE

BASE = {"dim": 768, "depth": 12, "hidden": 3072, "moe_blocks": 6}
LARGE = {"dim": 1024, "depth": 24, "hidden": 4096, "moe_blocks": 12}
MODELS = (
    Vit("ViT-B/16, 8 experts", **BASE, experts=8),
    Vit("ViT-B/16, 64 experts", **BASE, experts=64),
    Vit("ViT-L/16, 8 experts", **LARGE, experts=8),
    Vit("ViT-L/16, 32 experts, 2 a token", **LARGE, experts=32, top_k=2),
    Vit("ViT-L/16, 64 experts", **LARGE, experts=64),
)
WIDEST = 64
"""The most GPUs that share the experts of a layer."""
WORLDS = (1, 8, 64, 1024)
ALL_WORLDS = tuple(2**i for i in range(11))


def main(
    images: Annotated[int, typer.Option(help="images a GPU and step")] = 64,
    inside: Annotated[float, typer.Option(help="bytes a second between the GPUs of a machine")] = H100.inside,
    between: Annotated[float, typer.Option(help="bytes a second of a GPU to other machines")] = H100.between,
    utilisation: Annotated[float, typer.Option(help="of the peak, what a training reaches")] = H100.utilisation,
) -> None:
    """Write the tables, or print them where an input is not the document's."""
    machine = dataclasses.replace(H100, inside=inside, between=between, utilisation=utilisation)
    tables = {
        "hardware": hardware_table(machine),
        "models": models_table(),
        "memory": memory_table(images, machine),
        "steps": steps_table(images, machine),
        "break_even": break_even_table(machine),
    }
    if machine != H100 or images != 64:
        print("\n\n".join(tables.values()))
        return
    tables["measured"] = measured_table()
    text = BEFORE + AFTER
    for name, table in tables.items():
        text = text.replace(f"<{name}>", table)
    path = Path(__file__).with_name("scaling.md")
    path.write_text(text, encoding="utf-8")
    print(f"written: {path}")


def hardware_table(machine: Hardware) -> str:
    """The inputs."""
    rows = [
        ("GPU memory", f"{machine.memory / 1e9:.0f} GB"),
        ("peak, bfloat16 dense", f"{machine.flops / 1e12:.0f} TFLOP/s, of which {machine.utilisation:.0%} is reached"),
        ("GPUs of a machine", str(machine.per_machine)),
        ("a GPU to its machine", f"{machine.inside / 1e9:.0f} GB/s each way, {machine.inside_latency * 1e6:.0f} µs"),
        ("a GPU to other machines", f"{machine.between / 1e9:.0f} GB/s, {machine.between_latency * 1e6:.0f} µs"),
        ("of both, what is reached", f"{machine.efficiency:.0%}"),
    ]
    return _table([machine.name, ""], rows)


def models_table() -> str:
    """What the models are."""
    rows = [
        (
            vit.name,
            f"{vit.count() / 1e6:,.0f} M",
            f"{vit.count(expert=True) / vit.count():.0%}",
            f"{vit.flops() / 1e9:.1f} G",
            f"{vit.count() * 16 / 1e9:.1f} GB",
        )
        for vit in MODELS
    ]
    head = ["model", "parameters", "of experts", "FLOPs an image, forward", "parameters, gradients, AdamW"]
    return _table(head, rows)


def layouts(vit: Vit, world: int) -> list[Layout]:
    """Every way for so many GPUs: experts whole, spread within a machine, spread as far as there are experts."""
    if world == 1:
        return [Layout(1, False)]
    shared = dict.fromkeys((1, min(world, H100.per_machine, vit.experts), min(world, WIDEST, vit.experts)))
    return [Layout(world, sharded, n) for n in shared for sharded in (False, True)]


def memory_table(images: int, machine: Hardware) -> str:
    """GB a GPU; what does not fit is struck through."""
    rows = []
    for vit in MODELS:
        for name in [layout.name for layout in layouts(vit, WIDEST)]:
            cells = []
            for world in WORLDS:
                layout = next((one for one in layouts(vit, world) if one.name == name), None)
                total = sum(memory(vit, layout, images, 2).values()) if layout else 0.0
                cells.append("" if layout is None else _fits(total, machine.memory))
            sizes = {w: memory(vit, one, images, 2) for w in ALL_WORLDS for one in layouts(vit, w) if one.name == name}
            enough = [w for w, size in sizes.items() if sum(size.values()) <= machine.memory]
            rows.append((vit.name, name, *cells, str(enough[0]) if enough else "none"))
    return _table(["model", "spread", *(f"{w:,} GPU{'s' * (w > 1)}" for w in WORLDS), "fits from"], rows)


def steps_table(images: int, machine: Hardware) -> str:
    """Bytes and times of a step."""
    rows = []
    for vit in MODELS:
        for world in WORLDS[1:]:
            steps = {one.name: (one, estimate(vit, one, images, machine)) for one in layouts(vit, world)}
            fits = {n for n, (one, _) in steps.items() if sum(memory(vit, one, images, 2).values()) <= machine.memory}
            best = min((step.time for name, (_, step) in steps.items() if name in fits), default=0.0)
            for name, (_, step) in steps.items():
                time = f"{step.time * 1e3:.1f}"
                rows.append(
                    (
                        vit.name,
                        f"{world:,}",
                        name,
                        f"{step.inside / 1e9:.2f}",
                        f"{step.between / 1e9:.2f}",
                        f"{step.compute * 1e3:.1f}",
                        f"{step.hidden * 1e3:.1f}",
                        f"{step.exposed * 1e3:.1f}",
                        f"~~{time}~~" if name not in fits else f"**{time}**" if step.time <= 1.02 * best else time,
                    )
                )
    head = ["model", "GPUs", "spread", "GB inside", "GB between", "compute ms", "can hide ms", "exposed ms", "step ms"]
    return _table(head, rows)


def break_even_table(machine: Hardware) -> str:
    """Images a GPU up to which expert parallelism moves less."""
    rows = []
    for vit in MODELS:
        for sharded in (False, True):
            for widest in (8, WIDEST):
                spreads = [Layout(w, sharded, min(w, widest, vit.experts)) for w in ALL_WORLDS[1:]]
                if widest > 8 and vit.experts <= 8:
                    continue
                cells = [f"{break_even(vit, spread, machine):,.0f}" for spread in spreads]
                if widest > 8:  # as long as the group is within a machine it is the row before
                    cells = ["" if w <= 8 else cell for w, cell in zip(ALL_WORLDS[1:], cells, strict=True)]
                place = "in a machine" if widest == 8 else f"over up to {min(widest, vit.experts)}"
                rows.append((vit.name, "FSDP" if sharded else "DDP", place, *cells))
    return _table(["model", "beside", "experts", *(f"{w:,}" for w in ALL_WORLDS[1:])], rows)


def measured_table() -> str:
    """Counted and calculated bytes of a step of a small model."""
    from scaling_measured import expected, measure_in

    rows = []
    for world in (2, 4):
        spreads = [(p, n) for p in ("ddp", "fsdp") for n in (1, 2, 4) if n <= world]
        for spread, counted in zip(spreads, measure_in(world, spreads), strict=True):
            formula = expected(*spread, world)
            for kind in sorted(counted):
                name = Layout(world, spread[0] == "fsdp", spread[1]).name
                rows.append((str(world), name, kind, f"{counted[kind]:,.0f}", f"{formula.get(kind, 0):,}"))
    return _table(["processes", "spread", "collective", "bytes counted", "by the formula"], rows)


def _fits(size: float, limit: float) -> str:
    text = f"{size / 1e9:.1f}"
    return text if size <= limit else f"~~{text}~~"


def _table(head: list[str], rows: list[tuple[str, ...]]) -> str:
    """Markdown; a cell equal to the one above it is left empty in the first two columns."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * min(len(head), 2)}{'---:|' * (len(head) - 2)}"]
    last: tuple[str, ...] = ()
    for row in rows:
        shown = list(row)
        if last and row[0] == last[0]:
            shown[0] = ""
            if len(row) > 5 and row[1] == last[1]:
                shown[1] = ""
        lines.append(f"| {' | '.join(shown)} |")
        last = row
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
