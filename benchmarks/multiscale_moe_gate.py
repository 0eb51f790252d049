"""Whether the gates of trained models look where there is something to see.

    python benchmarks/multiscale_moe_gate.py --jobs 2       # 30 trainings of generated figures
    python benchmarks/multiscale_moe_gate.py --seeds 1 --set training.epochs=1 --out /tmp/try --folder /tmp/runs

The coarse cues are a patchwork, which windows of one patch cannot see, and the fine ones weaves, which larger windows
average away. For the gate over modalities (``.hierarchical``) identities differ in two of the three spectra; what the
third shows changes from image to image. For the gate over scales (of the plain model, shared by all spectra) they
differ in coarse cues alone, in coarse and fine ones, or in fine ones alone. Of the trained model the mean weights over
the test queries are taken and correlated (Spearman, over modalities, conditions and seeds) with what was planted: a
modality's with whether it has cues, the smallest windows' with the share of cues that are fine. The model is told
nothing of it. Things that are equally planted are ties and keep the correlation below one: the most that it can be is
stored too. Every run leaves one JSON in ``--folder`` and goes on from its own checkpoints, so that a stopped benchmark
goes on by the same command. Writes ``results/multiscale_moe_gate.json``.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from card_tables.reid import gate_table
from cards import RESULTS, store
from recorded_runs import places, read_figures, run_each, trained_once, use_one_thread
from rich.console import Console
from rich.markdown import Markdown

if TYPE_CHECKING:
    from moezoo.train import Recipe

MODELS = {"spectra": "multiscale_moe/synthetic.hierarchical", "scales": "multiscale_moe/synthetic"}
MODALITIES = ("RGB", "NIR", "TIR")
SMALLEST = "smallest windows"
SPECTRA: dict[str, tuple[str, ...]] = {
    f"{one} and {two}": tuple(f"{m.lower()}_{scale}" for m in (one, two) for scale in ("coarse", "fine"))
    for one, two in itertools.combinations(MODALITIES, 2)
}
SCALES: dict[str, tuple[str, ...]] = {
    name: tuple(f"{m.lower()}_{scale}" for m in MODALITIES for scale in name.split(" and "))
    for name in ("coarse", "coarse and fine", "fine")
}
FIGURES = (
    *("data.patchwork=20", "data.depths=[40, 40, 40]", "data.pad=0"),  # a shifted image has other patches
    *("data.train_identities=32", "data.val_identities=2", "data.test_identities=20", "data.images_per_camera=4"),
)
"""Three cues of four levels tell no more than 64 identities apart."""
TRAINING = ("sparsity_weight=0.0", "temperature=3", "training.id_weight=1.0", "training.epochs=24")
"""By the preset (temperature 1) gates settle on the first source that serves, before the others are known."""
GATES = {
    "spectra": ("balance_weight=3.0", "training.lr=4e-3"),
    "scales": ("balance_weight=0.0",),
}
"""Without balance the gate over spectra gives all to one of the two that serve. At the preset's rate of 1e-2 some of
these models, whose nine experts share nothing, find no one."""


def main(
    seeds: Annotated[int, typer.Option(min=1, help="seeds 0 to N-1")] = 5,
    jobs: Annotated[int, typer.Option(min=1, help="trainings at the same time, one thread each")] = 1,
    set_: Annotated[list[str] | None, typer.Option("--set", help="key=value over the recipe; may be repeated")] = None,
    folder: Annotated[Path, typer.Option(help="of the runs")] = Path("runs/benchmark_multiscale_moe_gate"),
    out: Annotated[Path, typer.Option(help="folder of the result")] = RESULTS,
) -> None:
    """Train what is not trained yet, then correlate."""
    settings = tuple(set_ or [])
    wanted = [(name, seed, settings, folder) for seed in range(seeds) for name in (*SPECTRA, *SCALES)]
    console = Console()
    run_each(one, wanted, jobs, console)
    found = {name: [read(name, seed, settings, folder) for seed in range(seeds)] for name in (*SPECTRA, *SCALES)}
    command = [f"python benchmarks/multiscale_moe_gate.py --seeds {seeds}", *(f"--set {pair}" for pair in settings)]
    spectra = [condition(cues, MODALITIES, found[name]) for name, cues in SPECTRA.items()]
    scales = [{"cues": name, **condition(cues, (SMALLEST,), found[name])} for name, cues in SCALES.items()]
    path = store(
        "multiscale_moe_gate",
        "gate",
        folder=out,
        command=" ".join(command),
        model=MODELS["spectra"],
        scales_model=MODELS["scales"],
        seeds=list(range(seeds)),
        spectra=spectra,
        spectra_correlation=correlation(spectra),
        scales=scales,
        scales_correlation=correlation(scales),
    )
    console.print(Markdown(gate_table(json.loads(path.read_text(encoding="utf-8")))))
    console.print(f"written: {path}; python benchmarks/cards.py fills the documents", soft_wrap=True)


def one(name: str, seed: int, settings: tuple[str, ...], folder: Path) -> str:
    """Train one model, unless it was done, and look at its gates; returns a line to print."""
    use_one_thread()
    return trained_once(*places(folder, "gate", name, seed), recipe_of(name, seed, settings), figures_of, shown)


def figures_of(trained: Any) -> dict[str, Any]:
    """What one run is looked at for."""
    return {"mAP": trained.result.test.reid.mAP, "weights": weights_of(trained.model, trained.splits)}


def shown(figures: Mapping[str, Any]) -> str:
    """For the line of a run."""
    weights = ", ".join(f"{column} {weight:.2f}" for column, weight in figures["weights"].items())
    return f"mAP {figures['mAP']:.2%}, {weights}"


def recipe_of(name: str, seed: int, settings: Sequence[str]) -> Recipe:
    """How the model of a condition is trained."""
    from moezoo.train import resolve_recipe

    kind, cues = ("spectra", SPECTRA[name]) if name in SPECTRA else ("scales", SCALES[name])
    given = [
        "viz.every=0",
        *FIGURES,
        *TRAINING,
        *GATES[kind],
        f"data.cues={list(cues)}",
        *settings,
        f"data.seed={seed}",
        f"training.seed={seed}",
    ]
    return resolve_recipe(MODELS[kind], assignments=given)


def read(name: str, seed: int, settings: Sequence[str], folder: Path) -> dict[str, Any] | None:
    """The figures of a run that is done, ``None`` if it is not; raises ``SystemExit`` if it was of another recipe."""
    return read_figures(places(folder, "gate", name, seed)[1], recipe_of(name, seed, settings))


def weights_of(model: Any, splits: Any) -> dict[str, float]:
    """Mean weight over the queries of every modality, where there is such a gate, and, over all modalities, of the
    smallest windows."""
    import torch

    images = torch.stack([splits.query[i][0] for i in range(len(splits.query))])
    with torch.no_grad():
        output = model.eval()(images, return_weights=True)
    smallest = output.scale_weights[..., 0]
    if output.modality_weights is None:
        return {SMALLEST: smallest.mean().item()}
    by_modality = dict(zip(MODALITIES, output.modality_weights.mean(0).tolist(), strict=True))
    return {**by_modality, SMALLEST: (output.modality_weights * smallest).sum(1).mean().item()}


def condition(cues: Sequence[str], columns: Sequence[str], runs: Sequence[Any]) -> dict[str, Any]:
    """One row: the share of cues that each column is about, and its weights, one per seed."""
    about = {column: "fine" if column == SMALLEST else column.lower() for column in columns}
    planted = {column: sum(about[column] in cue for cue in cues) / len(cues) for column in columns}
    weights = {column: [run["weights"][column] for run in runs] for column in columns}
    return {"planted": planted, "weights": weights, "mAP": [run["mAP"] for run in runs]}


def correlation(conditions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Spearman's rank correlation of weights with what was planted, each seed's a point of its own."""
    from scipy.stats import spearmanr

    def pairs(chosen: slice) -> tuple[list[float], list[float]]:
        found = [
            (strength, weight)
            for each in conditions
            for what, strength in each["planted"].items()
            for weight in each["weights"][what][chosen]
        ]
        return [strength for strength, _ in found], [weight for _, weight in found]

    def rho(strengths: Sequence[float], weights: Sequence[float]) -> float:
        return float(spearmanr(strengths, weights).statistic)

    strengths, weights = pairs(slice(None))
    seeds = range(len(conditions[0]["mAP"]))
    return {
        "rho": rho(strengths, weights),
        "most": rho(sorted(strengths), range(len(strengths))),
        "points": len(strengths),
        "by_seed": [rho(*pairs(slice(s, s + 1))) for s in seeds],
    }


if __name__ == "__main__":
    typer.run(main)
