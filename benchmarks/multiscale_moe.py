"""The multi-scale MoE beside other fusions of the same scales, over several seeds: who finds more identities again.

    python benchmarks/multiscale_moe.py --jobs 2            # 30 trainings: half an hour on two cores
    python benchmarks/multiscale_moe.py --seeds 2 --set training.epochs=1 --out /tmp/try --folder /tmp/runs

Every fusion gets the same recipe, but for a learning rate chosen for each by validation identities; the controls have
as many parameters as the MoE, the dense twin as many FLOPs. The epoch is chosen by validation identities too, each
model is tested once, on other identities and cameras. A fusion is compared with the MoE by a paired t-test (scipy's
``ttest_rel``, two-sided) over the seeds. Every run leaves one JSON in ``--folder`` and goes on from its own
checkpoints, so that a stopped benchmark goes on by the same command; a run of another recipe than today's is refused,
not mixed in. Writes ``results/multiscale_moe_synthetic.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from card_tables.reid import fusions_table
from cards import RESULTS, store
from diff_moe import paired_p
from recorded_runs import places, read_figures, run_each, trained_once, use_one_thread
from rich.console import Console
from rich.markdown import Markdown

if TYPE_CHECKING:
    from moezoo.train import Recipe

NAME = "synthetic"
BASE, TWIN = "MoE", "dense twin"
VARIANTS = {BASE: "", "mean": ".mean", "concat": ".concat", "MLP": ".mlp", "attention": ".attention", TWIN: ".dense"}
RATES = {"attention": "3e-3", "concat": "3e-2", "mean": "3e-2"}
"""Learning rates other than the recipe's 1e-2. Of 3e-3, 1e-2 and 3e-2 each fusion has the one that gave it the best mAP
on validation identities: with seed 0, and against 1e-2 with further seeds too."""
TIMED_SIGHTINGS = 32
TIMED_ROUNDS = 20


def main(
    seeds: Annotated[int, typer.Option(min=1, help="seeds 0 to N-1")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="trainings at the same time, one thread each")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated")] = None,
    folder: Annotated[Path, typer.Option(help="of the runs")] = Path("runs/benchmark_multiscale_moe"),
    out: Annotated[Path, typer.Option(help="folder of the result")] = RESULTS,
) -> None:
    """Train what is not trained yet, then compare."""
    settings = tuple(set_ or [])
    wanted = [(variant, seed, settings, folder) for seed in range(seeds) for variant in VARIANTS]
    console = Console()
    run_each(one, wanted, jobs, console)
    found = {variant: [read(variant, seed, settings, folder) for seed in range(seeds)] for variant in VARIANTS}
    command = [f"python benchmarks/multiscale_moe.py --seeds {seeds}", *(f"--set {pair}" for pair in settings)]
    path = store(
        f"multiscale_moe_{NAME}",
        "fusions",
        folder=out,
        command=" ".join(command),
        data="generated figures in three spectra",
        seeds=list(range(seeds)),
        test="paired t-test over the seeds, two-sided, each comparison by itself",
        variants=compared(found),
        times=timed(settings),
    )
    console.print(Markdown(fusions_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def one(variant: str, seed: int, settings: tuple[str, ...], folder: Path) -> str:
    """Train and test one model, unless it was done; returns a line to print."""
    use_one_thread()
    return trained_once(*places(folder, NAME, variant, seed), recipe_of(variant, seed, settings), figures_of, shown)


def shown(figures: Mapping[str, Any]) -> str:
    """For the line of a run."""
    scores = ", ".join(f"{key} {figures[key]:.2%}" for key in ("mAP", "r1", "val_mAP"))
    return f"{scores}, {figures['seconds']:.0f} s"


def recipe_of(variant: str, seed: int, settings: Sequence[str]) -> Recipe:
    """How a variant is trained."""
    from moezoo.train import resolve_recipe

    rate = [f"training.lr={RATES[variant]}"] if variant in RATES else []
    given = ["viz.every=0", *rate, *settings, f"training.seed={seed}"]
    return resolve_recipe(f"multiscale_moe/{NAME}{VARIANTS[variant]}", assignments=given)


def read(variant: str, seed: int, settings: Sequence[str], folder: Path) -> dict[str, Any] | None:
    """The figures of a run that is done, ``None`` if it is not; raises ``SystemExit`` if it was of another recipe."""
    return read_figures(places(folder, NAME, variant, seed)[1], recipe_of(variant, seed, settings))


def figures_of(trained: Any) -> dict[str, Any]:
    """What one run is compared by."""
    import torch

    from moezoo import measure

    report, splits = trained.result.test.reid, trained.splits
    images = torch.stack([splits.query[i][0] for i in range(2)])
    return {
        "mAP": report.mAP,
        "r1": report.r1,
        "val_mAP": trained.result.best.score,
        "best_epoch": trained.result.best_epoch,
        "parameters": measure.parameters(trained.model).total,
        "mflops": measure.flops(trained.model.eval(), images).executed / len(images) / 1e6,
        "identities": len(set(map(int, splits.query.identities))),
        "queries": len(splits.query),
        "seconds": trained.result.seconds,
    }


def compared(found: Mapping[str, Sequence[Any]]) -> dict[str, Any]:
    """The figures of all seeds of each variant, and the paired test of its mAP against the MoE's."""
    variants: dict[str, Any] = {}
    for name, runs in found.items():
        variants[name] = {key: [run[key] for run in runs] for key in runs[0] if key != "recipe"}
        if name != BASE:
            ours, theirs = variants[name]["mAP"], [run["mAP"] for run in found[BASE]]
            variants[name]["over"] = [a - b for a, b in zip(ours, theirs, strict=True)]
            variants[name]["p_value"] = paired_p(ours, theirs)
    return variants


def timed(settings: Sequence[str]) -> dict[str, Any]:
    """The time of an evaluation forward and of a training step over the dense twin's, in interleaved rounds."""
    import torch

    from moezoo import aux_loss, create_model, measure

    models = {v: create_model(f"multiscale_moe/{NAME}{end}", **model_of(v, settings)) for v, end in VARIANTS.items()}
    config = next(iter(models.values())).config
    sightings = torch.randn(TIMED_SIGHTINGS, config.num_modalities, config.in_chans, *config.sides)

    def step(model: Any) -> None:
        model.train()
        loss = sum(score.logsumexp(1).mean() + feature.square().mean() for score, feature in model(sightings))
        (loss + aux_loss(model)).backward()

    steps = {name: lambda model=model: step(model) for name, model in models.items()}
    forward = measure.latency(models, sightings, rounds=TIMED_ROUNDS, baseline=TWIN)
    backward = measure.latency(steps, rounds=TIMED_ROUNDS, baseline=TWIN)
    named = {f"forward of {TIMED_SIGHTINGS} sightings": forward, f"training step of {TIMED_SIGHTINGS}": backward}
    return {"baseline": f"the {TWIN}", "ratios": {what: ratios(times) for what, times in named.items()}}


def model_of(variant: str, settings: Sequence[str]) -> dict[str, Any]:
    """The recipe's changes to the preset."""
    return dict(recipe_of(variant, 0, settings).model)


def ratios(times: Mapping[str, Any]) -> dict[str, Any]:
    """Median and quartiles of the time over the baseline's in the same round."""
    return {name: {"ratio": t.ratio, "low": t.ratio_low, "high": t.ratio_high} for name, t in times.items()}


if __name__ == "__main__":
    typer.run(main)
