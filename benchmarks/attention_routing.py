"""Attention routing beside its baselines and controls, over several seeds, and one trained model at many budgets.

    python benchmarks/attention_routing.py --threads 2                  # cluttered digits, three seeds: about an hour
    python benchmarks/attention_routing.py --dataset digits --seeds 5
    python benchmarks/attention_routing.py --seeds 1 --set training.epochs=1 --out /tmp/try --folder /tmp/runs

Every model gets the same recipe. The epoch is chosen on validation images, each model is tested once; the dial is that
of the same trained model, set to shares of cells between 0 and 1 and tested at each, nothing being chosen by it. Every
run leaves one JSON in ``--folder`` and goes on from its own checkpoints, so that a stopped benchmark goes on by the
same command; a run of another recipe than today's is refused, not mixed in. Writes
``results/attention_routing_<dataset>.json``, ``results/attention_routing_<dataset>_dial.json``, and a picture of both.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer
from card_tables.routed import dial_table, routed_table
from cards import RESULTS, store
from recorded_runs import places, read_figures, trained_once
from rich.console import Console
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from moezoo import measure
from moezoo.eval import evaluate_front
from moezoo.train import resolve_recipe
from moezoo.viz import FrontPoint, front_figure, save_figure

if TYPE_CHECKING:
    from moezoo.train import Recipe, TrainedRun
    from moezoo.viz.style import Picture

ROUTED, FULL = "attention", "full compute"
VARIANTS = {
    ROUTED: "",
    FULL: ".full_compute",
    "cheap compute": ".cheap_compute",
    "no routing": ".no_routing",
    "random routing": ".random_routing",
    "fixed centre": ".fixed_center",
    "dense twin": ".dense",
}
DATASETS = ("cluttered_digits", "digits")
BUDGETS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0)
"""Where the dial is tried."""
FLOPS_IMAGES = 8
"""Over which the FLOPs of models without a router are counted."""


def main(
    dataset: Annotated[list[str] | None, typer.Option(help="cluttered_digits (default) or digits; repeatable")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds 0 to N-1")] = 3,
    threads: Annotated[int | None, typer.Option(min=1, help="threads inside an operator")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipes; may be repeated")] = None,
    folder: Annotated[Path, typer.Option(help="of the runs")] = Path("runs/benchmark_attention_routing"),
    out: Annotated[Path, typer.Option(help="folder of the results")] = RESULTS,
) -> None:
    """Train what is not trained yet, then compare."""
    names, settings = dataset or ["cluttered_digits"], tuple(set_ or [])
    if unknown := [name for name in names if name not in DATASETS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(DATASETS)}", param_hint="--dataset")
    if threads is not None:
        torch.set_num_threads(threads)
    console = Console()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    wanted = [(name, variant, seed) for name in names for seed in range(seeds) for variant in VARIANTS]
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("runs", total=len(wanted))
        for name, variant, seed in wanted:
            bar.console.print(one(name, variant, seed, settings, folder), soft_wrap=True)
            bar.advance(task)
    for name in names:
        found = {v: [figures(folder, name, v, s, settings) for s in range(seeds)] for v in VARIANTS}
        parts = [f"python benchmarks/attention_routing.py --dataset {name} --seeds {seeds}"]
        parts += [f"--threads {threads}"] if threads is not None else []
        about: dict[str, Any] = {
            "command": " ".join([*parts, *(f"--set {pair}" for pair in settings)]),
            "data": name.replace("_", " "),
            "seeds": list(range(seeds)),
        }
        stem = f"attention_routing_{name}"
        path = store(stem, "routed", folder=out, **about, **compared(found))
        dial = store(f"{stem}_dial", "dial", folder=out, **about, **dialled(found[ROUTED]))
        console.print(Markdown(routed_table(json.loads(path.read_text(encoding="utf-8")))))
        console.print(Markdown(dial_table(json.loads(dial.read_text(encoding="utf-8")))))
        picture = save_figure(front(found), out / f"{stem}.png", dpi=110)
        console.print(
            f"written: {path}, {dial}, {picture}; python benchmarks/cards.py fills the documents", soft_wrap=True
        )


def one(name: str, variant: str, seed: int, settings: Sequence[str], folder: Path) -> str:
    """Train and test one model, unless it was done; returns a line to print."""

    def kept(trained: TrainedRun) -> dict[str, Any]:
        return {**figures_of(trained), **({"dial": dial_of(trained)} if variant == ROUTED else {})}

    recipe = recipe_of(name, variant, seed, settings)
    return trained_once(*places(folder, name, variant, seed), recipe, kept, shown)


def shown(figures: Mapping[str, Any]) -> str:
    """For the line of a run."""
    flops = figures["flops"]["p50"] / 1e6
    return f"{figures['accuracy']:.2%}, {flops:.2f} MFLOPs an image, {figures['seconds']:.0f} s"


def recipe_of(name: str, variant: str, seed: int, settings: Sequence[str]) -> Recipe:
    """How a variant is trained."""
    recipe = resolve_recipe(
        f"attention_routing/{name}{VARIANTS[variant]}", assignments=[*settings, f"training.seed={seed}"]
    )
    return dataclasses.replace(recipe, viz=dataclasses.replace(recipe.viz, every=0))


def figures(folder: Path, name: str, variant: str, seed: int, settings: Sequence[str]) -> dict[str, Any] | None:
    """The figures of a run that is done, ``None`` if it is not; raises ``SystemExit`` if it was of another recipe."""
    return read_figures(places(folder, name, variant, seed)[1], recipe_of(name, variant, seed, settings))


def figures_of(trained: TrainedRun) -> dict[str, Any]:
    """What one run is compared by."""
    test, parameters = trained.result.test, measure.parameters(trained.model)
    assert test.classification is not None
    found = {
        "accuracy": test.classification.top1,
        "val_accuracy": trained.result.best.val_accuracy,
        "parameters": parameters.total,
        "test_images": len(trained.splits.test),
        "best_epoch": trained.result.best_epoch,
        "seconds": trained.result.seconds,
        "ratio": None,
        "box": None,
    }
    spent = test.budget
    if spent is None:  # every image costs the same, and nothing is chosen
        images = torch.stack([trained.splits.test[i][0] for i in range(FLOPS_IMAGES)])
        counted = measure.flops_per_image(trained.model, images)
        for key, values in (("flops", counted.flops), ("without_encoder", counted.without_encoder)):
            found[key] = dict.fromkeys(("mean", "p50", "p95"), float(values.mean()))
        return found
    for key, spread in (("flops", spent.flops_per_image), ("without_encoder", spent.without_encoder)):
        found[key] = {"mean": spread.mean, "p50": spread.p50, "p95": spread.p95}
    found["ratio"] = {"mean": spent.ratio.mean, "sd": spent.ratio.sd}
    if spent.box_overlap is not None and spent.ratio.mean > 0:
        found["box"] = dataclasses.asdict(spent.box_overlap)
    return found


def dial_of(trained: TrainedRun) -> list[dict[str, float]]:
    """The one trained model at each budget."""
    points = evaluate_front(trained.model, trained.splits.test, BUDGETS)
    return [{"budget": p.setting, "accuracy": p.accuracy, "ratio": p.ratio, "flops": p.flops} for p in points]


def compared(found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The figures of every variant, one per seed, and how far its accuracy is from full compute's and attention's."""
    variants: dict[str, Any] = {}
    for name, runs in found.items():
        variants[name] = {key: [run[key] for run in runs] for key in runs[0] if key not in ("recipe", "dial")}
        for other, label in ((FULL, "over_full"), (ROUTED, "over_attention")):
            pairs = zip(runs, found[other], strict=True)
            variants[name][label] = [ours["accuracy"] - theirs["accuracy"] for ours, theirs in pairs]
    full = statistics.mean(run["flops"]["p50"] for run in found[FULL])
    return {"full_flops": full, "variants": variants}


def dialled(runs: Sequence[Any]) -> dict[str, Any]:
    """Accuracy and FLOPs at each budget, one per seed, behind those of the model as it was trained."""
    trained = {
        "accuracy": [run["accuracy"] for run in runs],
        "ratio": [run["ratio"]["mean"] for run in runs],
        "flops": [run["flops"]["p50"] for run in runs],
    }
    points = [
        {"budget": each[0]["budget"], **{key: [p[key] for p in each] for key in ("accuracy", "ratio", "flops")}}
        for each in zip(*(run["dial"] for run in runs), strict=True)
    ]
    return {"trained": trained, "points": points, "test_images": runs[0]["test_images"]}


def front(found: Mapping[str, Sequence[Any]]) -> Picture:
    """Accuracy against FLOPs: the dial as a line, everything else as a point."""
    dial = [FrontPoint(p["flops"], p["accuracy"], p["budget"]) for run in found[ROUTED] for p in run["dial"]]
    points = {
        "as trained" if name == ROUTED else name: [FrontPoint(run["flops"]["p50"], run["accuracy"]) for run in runs]
        for name, runs in found.items()
    }
    return front_figure({"attention, by its dial": dial}, points, reference=FULL)


if __name__ == "__main__":
    typer.run(main)
