"""Diff-MoE beside its dense twin and beside itself without parts of what it learns from, over several seeds.

    python benchmarks/diff_moe.py --jobs 2                      # all of it, five seeds: hours on two cores
    python benchmarks/diff_moe.py --dataset digits --seeds 2 --set training.epochs=1 --out /tmp/try

Every run leaves one JSON in ``--folder`` and goes on from its own checkpoints, so that a stopped benchmark goes on by
the same command; a run of another recipe than today's is refused, not mixed in. The epoch is chosen on validation
images, each model is tested once. A variant is compared with the MoE by a paired t-test (scipy's ``ttest_rel``,
two-sided) over the seeds. Writes ``results/diff_moe_<dataset>.json``.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from card_tables.models import SCORES, variants_table
from cards import RESULTS, store
from recorded_runs import places, read_figures, run_each, trained_once, use_one_thread
from rich.console import Console
from rich.markdown import Markdown

if TYPE_CHECKING:
    from moezoo.train import Recipe

BASE = "MoE"
NO_ROUTER_LOSSES = ("router_z_loss_weight=0", "router_balance_loss_weight=0")
NO_TEXT_LOSSES = ("cross_modal_alignment_weight=0", "contrastive_loss_weight=0")
NO_AUX = (*NO_ROUTER_LOSSES, *NO_TEXT_LOSSES)


@dataclass(frozen=True)
class Variant:
    """A model's variant and what is set beside it."""

    suffix: str = ""
    settings: tuple[str, ...] = ()


VARIANTS: dict[str, dict[str, Variant]] = {
    "digits": {
        BASE: Variant(),
        "dense twin": Variant(".dense"),
        "no auxiliary losses": Variant(settings=NO_AUX),
        "no router losses": Variant(settings=NO_ROUTER_LOSSES),
        "no text": Variant(settings=("training.text=none",)),
        "shuffled text": Variant(settings=("training.text=shuffled",)),
    },
    # Retrieval is learnt from losses between image and sentence alone: without them sentences are read and tell
    # nothing, which is what there is of "no text"; without the routers' too there would be nothing to train at all.
    "shapes": {
        BASE: Variant(),
        "dense twin": Variant(".dense"),
        "no router losses": Variant(settings=NO_ROUTER_LOSSES),
        "no losses of text": Variant(settings=NO_TEXT_LOSSES),
        "shuffled text": Variant(settings=("training.text=shuffled",)),
    },
    "captions": {
        BASE: Variant(".captioner"),
        "dense twin": Variant(".captioner", ("dense=true",)),
        "no router losses": Variant(".captioner", NO_ROUTER_LOSSES),
    },
}
ARCHS = {"digits": "digits", "shapes": "shapes", "captions": "shapes"}


def main(
    dataset: Annotated[
        list[str] | None, typer.Option(help="digits, shapes (retrieval), captions (of shapes); by default all")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="seeds 0 to N-1")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="trainings at the same time, one thread each")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipes; may be repeated")] = None,
    folder: Annotated[Path, typer.Option(help="of the runs")] = Path("runs/benchmark_diff_moe"),
    out: Annotated[Path, typer.Option(help="folder of diff_moe_<dataset>.json")] = RESULTS,
) -> None:
    """Train what is not trained yet, then compare."""
    names = dataset or list(VARIANTS)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(VARIANTS)}", param_hint="--dataset")
    wanted = [
        (name, variant, seed, tuple(set_ or []), folder)
        for seed in range(seeds)
        for name in names
        for variant in VARIANTS[name]
    ]
    console = Console()
    run_each(one, wanted, jobs, console)
    for name in names:
        command = f"python benchmarks/diff_moe.py --dataset {name} --seeds {seeds}"
        found = {v: [read(folder, name, v, s, tuple(set_ or [])) for s in range(seeds)] for v in VARIANTS[name]}
        path = store(
            f"diff_moe_{name}",
            "variants",
            folder=out,
            command=" ".join([command, *(f"--set {pair}" for pair in set_ or [])]),
            data=name,
            seeds=list(range(seeds)),
            **compared(found),
        )
        console.print(Markdown(variants_table(json.loads(path.read_text(encoding="utf-8")))))
        console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def one(name: str, variant: str, seed: int, settings: tuple[str, ...], folder: Path) -> str:
    """Train and test one model, unless it was done; returns a line to print."""
    use_one_thread()
    recipe = recipe_of(name, variant, seed, settings)
    return trained_once(*places(folder, name, variant, seed), recipe, figures_of, shown)


def shown(figures: Mapping[str, Any]) -> str:
    """For the line of a run."""
    scores = ", ".join(f"{key} {figures[key]:.2%}" for key in SCORES if figures.get(key) is not None)
    return f"{scores}, {figures['seconds']:.0f} s"


def recipe_of(name: str, variant: str, seed: int, settings: Sequence[str]) -> Recipe:
    """How a variant is trained."""
    from moezoo.train import resolve_recipe

    what = VARIANTS[name][variant]
    given = [*what.settings, *settings, f"training.seed={seed}"]
    return resolve_recipe(f"diff_moe/{ARCHS[name]}{what.suffix}", assignments=given)


def read(folder: Path, name: str, variant: str, seed: int, settings: Sequence[str]) -> dict[str, Any] | None:
    """The figures of a run that is done, ``None`` if it is not; raises ``SystemExit`` if it was of another recipe."""
    return read_figures(places(folder, name, variant, seed)[1], recipe_of(name, variant, seed, settings))


def figures_of(trained: Any) -> dict[str, Any]:
    """What one run is compared by."""
    import torch

    from moezoo import measure

    model, test = trained.model.eval(), trained.result.test
    images = torch.stack([trained.splits.test[i][0] for i in range(8)])
    parameters = measure.parameters(model)
    text, retrieval, captions = test.text, test.retrieval, test.captions
    return {
        "accuracy": test.classification.top1 if test.classification is not None else None,
        "zero_shot": text.zero_shot if text is not None else None,
        "label_text_upper_bound": text.label_text_upper_bound if text is not None else None,
        "image_to_text_r1": retrieval.image_to_text.r1 if retrieval is not None else None,
        "text_to_image_r1": retrieval.text_to_image.r1 if retrieval is not None else None,
        "exact_match": captions.exact_match if captions is not None else None,
        "load_entropy": statistics.mean(load.load_entropy for load in test.routing) if test.routing else None,
        "dead_experts": sum(len(load.dead_experts) for load in test.routing),
        "experts": sum(load.num_experts for load in test.routing),
        "parameters": parameters.total,
        "active": parameters.active,
        "mflops": measure.flops(model, images).executed / len(images) / 1e6,
        "test_images": len(trained.splits.test),
        "best_epoch": trained.result.best_epoch,
        "seconds": trained.result.seconds,
    }


def compared(found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """Figures of all seeds of each variant, and the paired test of the first score against the MoE's."""
    tested = next(key for key in SCORES if found[BASE][0][key] is not None)
    keys = [key for key in found[BASE][0] if key != "recipe"]
    variants: dict[str, dict[str, Any]] = {
        name: {key: [run[key] for run in runs] for key in keys} for name, runs in found.items()
    }
    for name, columns in variants.items():
        if name != BASE:
            columns["p_value"] = paired_p(columns[tested], variants[BASE][tested])
    test = "paired t-test over the seeds, two-sided, each comparison by itself"
    return {"tested": tested, "test": test, "variants": variants}


def paired_p(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Of scipy's ``ttest_rel``; ``None`` where the differences have no spread, or there is one pair only."""
    from scipy.stats import ttest_rel

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    if len(differences) < 2 or statistics.pstdev(differences) < 1e-12:
        return None
    return float(ttest_rel(ours, theirs).pvalue)


if __name__ == "__main__":
    typer.run(main)
