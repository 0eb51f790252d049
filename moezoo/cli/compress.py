"""``moezoo compress``: a smaller model beside the one it was made from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moezoo.cli.options import Checkpoint, RecipeValues, TakePretrained


def compress(
    name: Annotated[str, typer.Argument(help="model name, local-dir:FOLDER of a finished run, or hf-hub:user/repo")],
    out: Annotated[Path, typer.Option("--out", "-o", help="gets the compressed model and compression.json")],
    quantize: Annotated[str | None, typer.Option(help="int8_dynamic or int8_weight_only")] = None,
    prune_hidden: Annotated[
        float | None, typer.Option(help="share of the hidden units of every expert and MLP that goes, as 0.3")
    ] = None,
    prune_experts: Annotated[
        int | None, typer.Option(help="experts that stay in every MoE layer: those that validation images use most")
    ] = None,
    set_: RecipeValues = None,
    checkpoint: Checkpoint = None,
    pretrained: TakePretrained = False,
    split: Annotated[str, typer.Option(help="val or test: the images of the score")] = "test",
    score: Annotated[bool, typer.Option(help="judge both models on the data set; without, no data is read")] = True,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="images that are timed together")] = 16,
    rounds: Annotated[int, typer.Option(help="timed calls of each model")] = 30,
) -> None:
    """Prune, then quantise a trained model, and say what it costs: size, time, executed FLOPs and score of both.

    Train a pruned model on for a while with 'moezoo train local-dir:OUT' before it is quantised.
    """
    import copy
    from dataclasses import replace

    from rich.console import Console

    from moezoo.altered.said import MODES
    from moezoo.cli.compressing import check_apart, loaded, print_table
    from moezoo.compress import compression_table
    from moezoo.compress import prune_experts as prune_by_use
    from moezoo.compress import prune_hidden as prune_units
    from moezoo.compress import quantize as make_int8
    from moezoo.errors import ConfigError
    from moezoo.hub import save_pretrained
    from moezoo.hub.files import write_text
    from moezoo.moe.checks import check_choice, check_int
    from moezoo.train import probe_folder
    from moezoo.train.output import write_json

    check_choice("split", split, ("val", "test"))
    if quantize is not None:
        check_choice("quantize", quantize, MODES)
    check_int("batch_size", batch_size, low=1)
    check_int("rounds", rounds, low=1)
    if quantize is None and prune_hidden is None and prune_experts is None:
        raise ConfigError("nothing is to be done: give --quantize, --prune-hidden or --prune-experts.")
    if prune_experts is not None and not score:
        raise ConfigError("--prune-experts is not allowed with --no-score: images have to show which experts are used.")
    check_apart(name, out)
    probe_folder(out)
    console, shown = Console(), Console(stderr=True)
    with shown.status("load"):
        given = loaded(name, set_ or [], checkpoint, pretrained, split if score else None, batch_size)
    model = copy.deepcopy(given.model)
    with shown.status("compress"):
        if prune_experts is not None:
            report = prune_by_use(model, keep=prune_experts, data=given.observed())
            console.print(str(report), highlight=False, markup=False)
        if prune_hidden is not None:
            prune_units(model, prune_hidden)
        if quantize is not None:
            make_int8(model, quantize)
    with given.judged(2) as judge:
        rows = compression_table(
            {"original": given.model, "compressed": model}, given.images, judge=judge, rounds=rounds
        )
    print_table(console, rows, given.score_name, title=name)
    told = {} if rows[1].score is None else {"dataset": given.dataset, f"{split}_{given.score_name}": rows[1].score}
    save_pretrained(model, out, metrics=told or None)
    if given.recipe is not None:  # by which the folder is evaluated, and a pruned model trained on
        recipe = replace(given.recipe, name=f"local-dir:{out}")
        write_text(out / "config.yaml", recipe.to_yaml(model.moezoo_config))
    file = out / "compression.json"
    write_json(
        file,
        {
            "model": name,
            "quantize": quantize,
            "prune_hidden": prune_hidden,
            "prune_experts": prune_experts,
            "dataset": given.dataset,
            "split": split if score else None,
            "score": given.score_name,
            "batch_size": batch_size,
            "machine": given.machine,
            "rows": [row.to_dict() for row in rows],
        },
    )
    for path in (out / "model.safetensors", file):
        console.print(f"  {path}", markup=False, soft_wrap=True)
