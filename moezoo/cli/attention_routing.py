"""``moezoo attention-routing``: train, evaluate and ablate by the flags and the file of their document."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODES = ("eval", "eval_all")
DOTTED = {"allow_extra_args": True, "ignore_unknown_options": True}
"""What typer does not know, ``--training.num_epochs 3``, is left to :mod:`moezoo.cli.documented_flags`."""

Config = Annotated[Path | None, typer.Option(help="YAML file with the document's sections dataset, model and training")]
SaveDir = Annotated[Path, typer.Option("--save_dir", help="folder of checkpoints/ and runs/")]

attention_routing = typer.Typer(
    no_args_is_help=True,
    help="Attention routing by its document's flags. Further flags are dotted keys, which override --config: "
    "--dataset.name cifar10, --dataset.patch_grid_size 4, --model.name full_compute, --model.router.mode sigmoid_gate, "
    "--training.batch_size 128, --training.num_epochs 100, --training.learning_rate 0.001, model.KEY, training.KEY.",
)


@attention_routing.command("train", context_settings=DOTTED)
def train(
    context: typer.Context,
    config: Config = None,
    save_dir: SaveDir = Path(),
    resume: Annotated[
        str | None, typer.Option(help="auto: go on from the run's newest checkpoint, if any; or one to take")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="drop the run that --save_dir holds")] = False,
) -> None:
    """Train the model of --model.name on --dataset.name; recipe < --config < dotted flags.

    Writes checkpoints/best_model_<name>.safetensors and training_results_<name>.json, both also without the name, and
    checkpoints/visualizations/.
    """
    from moezoo.cli.attention_routing_train import train_documented
    from moezoo.cli.documented_flags import read_documented

    train_documented(read_documented(context.args, config), save_dir, resume=resume, overwrite=overwrite)


@attention_routing.command("evaluate", context_settings=DOTTED)
def evaluate(
    context: typer.Context,
    config: Config = None,
    mode: Annotated[
        str, typer.Option(help="eval: one model; eval_all: every model that was trained, compared")
    ] = "eval",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="by default checkpoints/best_model_<name>.safetensors, else best_model.safetensors"),
    ] = None,
    save_dir: SaveDir = Path(),
) -> None:
    """Test what was trained: evaluation_results.json, with --mode eval_all baseline_comparison.json, and pictures."""
    from moezoo.cli.attention_routing_evaluate import evaluate_all, evaluate_one
    from moezoo.cli.documented_flags import read_documented
    from moezoo.errors import ConfigError
    from moezoo.moe.checks import check_choice

    check_choice("--mode", mode, MODES)
    asked = read_documented(context.args, config)
    if mode == "eval":
        evaluate_one(asked, checkpoint, save_dir)
    elif checkpoint is not None:
        raise ConfigError("--checkpoint is one model's; --mode eval_all reads all of checkpoints/best_model_*.")
    else:
        evaluate_all(asked, save_dir)


@attention_routing.command("ablate", context_settings=DOTTED)
def ablate(
    context: typer.Context,
    config: Config = None,
    only: Annotated[list[str] | None, typer.Option(help="this factor alone, patch_grid_size for example")] = None,
    seeds: Annotated[int, typer.Option(help="runs of everything")] = 1,
    save_dir: SaveDir = Path(),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="drop the runs of an earlier ablation")] = False,
) -> None:
    """Threshold, budget, grid, temperature, routing on and off, router and aggregator, one at a time: ablation.csv.

    The same command goes on where an earlier one was stopped or killed.
    """
    from rich.console import Console

    from moezoo.ablate import resolve_plan
    from moezoo.cli.ablate import run_ablation
    from moezoo.cli.documented_flags import read_documented

    asked = read_documented(context.args, config)
    plan = resolve_plan(asked.name(), assignments=asked.assignments, only=only or (), seeds=seeds)
    runs = save_dir / "runs" / f"ablation-{asked.name().replace('/', '-')}"
    console = Console()
    for path in run_ablation(plan, runs, console, tables=save_dir / "checkpoints", overwrite=overwrite):
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
