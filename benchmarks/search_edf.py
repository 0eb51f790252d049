"""How good some design spaces are on scikit-learn's digits: errors of designs drawn from each, each trained shortly.

    python benchmarks/search_edf.py             # 100 designs of an MoE space and 30 of each other, one process

Errors are of the validation images. Goes on where it was stopped. Writes ``results/search_edf.json`` and
``docs/search_edf.png``.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated

import typer
from card_tables.search import edf_table
from cards import RESULTS, ROOT, store
from rich.console import Console
from rich.markdown import Markdown

from moezoo.search import compare_spaces
from moezoo.search.progress import SearchBar
from moezoo.viz import edf_figure, save_figure

SPACES = {
    "entity_moe/digits": 100,
    "vit_upcycle.small": 30,
    "anynetx_a.small": 30,
    "anynetx_e.small": 30,
    "regnetx.small": 30,
}
EPOCHS = 4


def main(
    only: Annotated[list[str] | None, typer.Option(help="train this space alone; may be repeated")] = None,
    jobs: Annotated[int, typer.Option(help="processes that train")] = 1,
    folder: Annotated[Path, typer.Option(help="where designs are kept")] = Path("runs/search_edf"),
    out: Annotated[Path, typer.Option(help="folder of search_edf.json")] = RESULTS,
    picture: Annotated[Path, typer.Option(help="the picture")] = ROOT / "docs" / "search_edf.png",
) -> None:
    """Train what is missing; once every space is there, store the result."""
    console = Console()
    found = {}
    for name, samples in SPACES.items():
        place = folder / name.replace("/", "-")
        clock = place / "clock.json"
        if only and name not in only and not clock.is_file():
            continue
        if clock.is_file():
            found[name] = json.loads(clock.read_text(encoding="utf-8"))
            continue
        whole = jobs == 1 and not place.is_dir()  # else some of the work was another process's
        begin, worked = time.perf_counter(), time.process_time()
        report = compare_spaces(
            name, place, samples=samples, epochs=EPOCHS, jobs=jobs, watcher=SearchBar(name, console)
        )
        designs = report.spaces[name]
        best = report.best(name)
        found[name] = {
            "epochs": EPOCHS,
            "jobs": jobs,
            "errors": [each.error for each in designs],
            "flops": [each.flops for each in designs],
            "seconds": time.perf_counter() - begin,
            "processor_seconds": time.process_time() - worked if whole else None,
            "best": {"error": best.error, "flops": best.flops, **best.values},
        }
        clock.write_text(json.dumps(found[name], indent=2) + "\n", encoding="utf-8")
    if len(found) < len(SPACES):
        return
    path = store(
        "search_edf",
        "edf",
        folder=out,
        command="python benchmarks/search_edf.py",
        data="digits",
        seeds=[0],
        spaces=found,
    )
    save_figure(edf_figure({name: each["errors"] for name, each in found.items()}), picture)
    console.print(Markdown(edf_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path} and {picture}; python benchmarks/cards.py fills the documents", soft_wrap=True)


if __name__ == "__main__":
    typer.run(main)
