"""The tables of the documents, written from the results that the other scripts store as JSON.

    python benchmarks/cards.py            # rewrite the tables that have changed
    python benchmarks/cards.py --check    # change nothing; exit code 1 if a table is not what its result says

A document holds a table between ``<!-- table: NAME -->`` and ``<!-- /table -->``, where NAME is a file in ``results/``,
or ``config_FAMILY`` for the fields that matter of a family's configuration. What turns a result into a table is in
``card_tables/``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from card_tables.clocks import clock_table, fusion_clock_table, step_table, vit_clock_table
from card_tables.compress import compress_table
from card_tables.configs import config_table
from card_tables.federated import federated_table
from card_tables.gpu import layer_table, models_table
from card_tables.memory import memory_table, reid_memory_table, saved_table
from card_tables.models import comparison_table, leakage_table, seeds_table, variants_table
from card_tables.parity import parity_table
from card_tables.published import published_table
from card_tables.recycling import recycling_table
from card_tables.reid import fusions_table, gate_table
from card_tables.routed import dial_table, routed_table
from card_tables.search import edf_table, nas_table
from card_tables.sizes import sizes_table

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"
DOCUMENTS = ("README.md", "MODEL_CARDS.md", "benchmarks/RESULTS.md")
BEGIN, END = re.compile(r"<!-- table: (\S+) -->\n"), "<!-- /table -->"


def main(
    check: Annotated[
        bool, typer.Option("--check", help="change nothing, exit with 1 if something would change")
    ] = False,
) -> None:
    """Fill every table of every document."""
    changed = []
    for name in DOCUMENTS:
        path = ROOT / name
        before = path.read_text(encoding="utf-8")
        after = fill(before, where=name)
        if after != before:
            changed.append(name)
            if not check:
                path.write_text(after, encoding="utf-8")
    print(f"{'out of date' if check else 'rewritten'}: {', '.join(changed) or 'nothing'}")
    raise typer.Exit(bool(check and changed))


def fill(text: str, *, where: str) -> str:
    """``text`` with the content of every table made anew."""
    parts, place = [], 0
    for begin in BEGIN.finditer(text):
        end = text.find(END, begin.end())
        if end < 0 or "<!-- table:" in text[begin.end() : end]:
            raise ValueError(f"{where}: the table {begin[1]!r} has no end {END!r}")
        parts += [text[place : begin.end()], table(begin[1]), "\n"]
        place = end
    return "".join(parts) + text[place:]


def table(name: str) -> str:
    """One table and, below it, where its figures come from."""
    if name.startswith("config_"):
        return config_table(name.removeprefix("config_"))
    data = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return f"{KINDS[data['kind']](data)}\n\n{source(data)}"


def store(name: str, kind: str, *, folder: Path = RESULTS, device: Any = "cpu", **data: Any) -> Path:
    """Write a result that ``kind`` of table shows, with the machine and the device it was measured on."""
    from moezoo.measure.machine import machine

    here = dataclasses.asdict(machine(device))
    here["torch"] = here["torch"].partition("+")[0]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    text = json.dumps({"kind": kind, **data, "machine": here}, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path


def source(data: dict[str, Any]) -> str:
    """The command, the seeds, the machine and torch, in one line."""
    parts = [f"`{data['command']}`"]
    if "seeds" in data:
        first, *rest = data["seeds"]
        parts.append(f"seeds {first} to {rest[-1]}" if rest else f"seed {first}")
    here = data["machine"]
    if data["kind"] not in ("sizes", "published"):  # counts are the same everywhere
        parts.append(here["processor"])
        parts += [f"{here[of]} {of if here[of] > 1 else of[:-1]}" for of in ("cores", "threads") if of in here]
    parts += [f"torch {here['torch']}"] if "torch" in here else []
    return f"{'; '.join(parts)}."


KINDS = {
    "sizes": sizes_table,
    "comparison": comparison_table,
    "seeds": seeds_table,
    "memory": memory_table,
    "saved": saved_table,
    "reid_memory": reid_memory_table,
    "fusions": fusions_table,
    "gate": gate_table,
    "variants": variants_table,
    "leakage": leakage_table,
    "step": step_table,
    "compress": compress_table,
    "routed": routed_table,
    "dial": dial_table,
    "clock": clock_table,
    "vit_clock": vit_clock_table,
    "fusion_clock": fusion_clock_table,
    "layer_gpu": layer_table,
    "models_gpu": models_table,
    "edf": edf_table,
    "federated": federated_table,
    "nas": nas_table,
    "parity": parity_table,
    "published": published_table,
    "recycling": recycling_table,
}


if __name__ == "__main__":
    typer.run(main)
