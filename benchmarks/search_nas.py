"""Search that learns (TPE with pruning) against random search at equal numbers of trials, on the digits space.

    python benchmarks/search_nas.py             # three seeds, about ten minutes on a core

Both choose by the validation images; the chosen design is tested once. Goes on where it was stopped. Writes
``results/search_nas.json``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer
from card_tables.search import nas_table
from cards import RESULTS, store
from rich.console import Console
from rich.markdown import Markdown

from moezoo.search import ArchitectureSearch
from moezoo.search.progress import SearchBar

SPACE = "entity_moe/digits"
CONSTRAINTS = ("backbone_args.embed_dim<=32", "backbone_args.depth<=2")
"""Small designs, so that seeds can be afforded."""
SEARCHES: dict[str, dict[str, Any]] = {
    "TPE with pruning": {"sampler": "tpe", "pruning": True},
    "random search": {"sampler": "random", "pruning": False},
}


def main(
    seeds: Annotated[int, typer.Option(help="seeds 0 to N-1")] = 3,
    trials: Annotated[int, typer.Option(help="designs that each search tries")] = 30,
    epochs: Annotated[int, typer.Option(help="of each design")] = 3,
    folder: Annotated[Path, typer.Option(help="where searches are kept")] = Path("runs/search_nas"),
    out: Annotated[Path, typer.Option(help="folder of search_nas.json")] = RESULTS,
) -> None:
    """Search with every seed in turns, and say which wins."""
    console = Console()
    found: dict[str, dict[str, list[Any]]] = {
        name: {key: [] for key in ("val", "test", "flops", "epochs", "seconds", "pruned")} for name in SEARCHES
    }
    for seed in range(seeds):
        for name, options in SEARCHES.items():
            figures = _search(name, options, seed, trials, epochs, folder, console)
            for key, values in found[name].items():
                values.append(figures[key])
    path = store(
        "search_nas",
        "nas",
        folder=out,
        command="python benchmarks/search_nas.py",
        data="digits",
        space=SPACE,
        constraints=list(CONSTRAINTS),
        trials=trials,
        epochs_per_trial=epochs,
        seeds=list(range(seeds)),
        searches=found,
    )
    console.print(Markdown(nas_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def _search(
    name: str, options: dict[str, Any], seed: int, trials: int, epochs: int, folder: Path, console: Console
) -> dict[str, Any]:
    place = folder / f"{options['sampler']}-{trials}x{epochs}-{seed}"
    kept = place.with_suffix(".json")
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    result = ArchitectureSearch(
        SPACE,
        trials=trials,
        epochs=epochs,
        constraints=CONSTRAINTS,
        seed=seed,
        out=place,
        resume=place.is_dir(),
        watcher=SearchBar(f"{name}, seed {seed}", console),
        **options,
    ).search()
    best = result.best[0]
    figures = {
        "val": best.score,
        "test": result.test["test_top1"],
        "flops": best.flops,
        "epochs": sum(each.epochs for each in result.trials),
        "seconds": sum(each.seconds for each in result.trials),
        "pruned": sum(each.pruned for each in result.trials),
        "scores": [each.score for each in result.trials],
    }
    kept.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(place)
    return figures


if __name__ == "__main__":
    typer.run(main)
