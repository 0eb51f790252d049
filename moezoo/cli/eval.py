"""``moezoo eval``: how good a model is on a data set, as its kind asks: classes, retrieval, captions, identities."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moezoo.cli.folders import RUNS
from moezoo.cli.options import Checkpoint, FinishedModel, Generation, RecipeValues, TakePretrained


def eval_(
    name: FinishedModel,
    set_: RecipeValues = None,
    checkpoint: Checkpoint = None,
    pretrained: TakePretrained = False,
    split: Annotated[str, typer.Option(help="val or test")] = "test",
    robustness: Annotated[
        bool, typer.Option("--robustness", help="also under noise, blur and shift, each at three strengths")
    ] = False,
    metric: Annotated[
        list[str] | None, typer.Option(help="a registered metric; may be repeated; by default all of them")
    ] = None,
    generate: Generation = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", "-b", help="images per forward; by default twice that of training")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps; by default the recipe's")] = None,
    seed: Annotated[int, typer.Option(help="of the noise and the shifts")] = 0,
    budgets: Annotated[
        str | None,
        typer.Option(help="of a model with a big and a small expert: shares for the big one, as 0.1,0.25,0.5,1"),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="of such a model: the time of a batch, beside all tokens to the big one")
    ] = False,
    rerank: Annotated[bool, typer.Option("--rerank", help="of identities: also after k-reciprocal re-ranking")] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="of identities: also with every choice of modalities missing")
    ] = False,
    protocol: Annotated[
        str | None, typer.Option(help="of identities: another rule than the data set's, such as msvr310 or none")
    ] = None,
    all_baselines: Annotated[
        bool, typer.Option("--all-baselines", help="compare all variants of the model that have a finished run")
    ] = False,
    runs: Annotated[Path, typer.Option(help="where --all-baselines looks for runs")] = RUNS,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="FILE.json for the numbers, or a folder for them and the pictures; of identities by default "
            "RUN/evaluation",
        ),
    ] = None,
) -> None:
    """Evaluate a model: top-1, top-5, calibration, per class, the load of every expert, and robustness.

    Of images with sentences: recall at 1, 5 and 10 of both directions, or the captions a model writes. The accuracy of
    a model that also reads text is that of the images alone. Of a model that gives its tokens to a big or a small
    expert: what each image cost, and with --budgets what accuracy costs. Of identities to be found again: mAP, Rank-1,
    5 and 10, mINP, and how the gates were used.
    """
    import dataclasses

    from rich.console import Console

    from moezoo.cli.baselines import evaluate_baselines
    from moezoo.cli.budgets import check_dial, front_pictures, parse_budgets, with_latency
    from moezoo.cli.counting import counted
    from moezoo.cli.identities import Asked, evaluate_identities, keep_identities, place_of_run, show_identities
    from moezoo.cli.report import print_report
    from moezoo.config import parse_assignments
    from moezoo.data import ReidSplits, Splits
    from moezoo.errors import ConfigError
    from moezoo.eval import CORRUPTIONS, FrontPoint, evaluate_front, evaluate_part
    from moezoo.eval import robustness as measure_robustness
    from moezoo.eval.part import check_belongs, passes, sentences_for
    from moezoo.eval.reading import writes_captions
    from moezoo.eval.tables_budget import front_table
    from moezoo.moe.checks import check_choice, check_int
    from moezoo.names import is_stored_name
    from moezoo.parts import metrics as registered
    from moezoo.train import create_for, find_device, probe_folder, resolve_recipe
    from moezoo.train.output import write_json

    check_choice("split", split, ("val", "test"))
    check_int("seed", seed, low=0)
    if batch_size is not None:
        check_int("batch_size", batch_size, low=1)
    file = out if out is not None and out.suffix == ".json" else out / "evaluation.json" if out is not None else None
    if file is not None:
        probe_folder(file.parent)
    for wanted in metric or []:
        registered.get(wanted)  # a misspelt one is found before anything is computed
    settings = parse_budgets(budgets)
    if all_baselines:
        singly: dict[str, object] = {"--checkpoint": checkpoint, "--pretrained": pretrained, "--robustness": robustness}
        singly |= {"--rerank": rerank, "--missing": missing, "--protocol": protocol}
        for option, given in {**singly, "--generate": generate, "--latency": latency}.items():
            if given:
                raise ConfigError(f"{option} is not allowed with --all-baselines, which loads finished runs")
        evaluate_baselines(
            name,
            runs=runs,
            assignments=set_ or [],
            split=split,
            metrics=metric,
            budgets=settings,
            batch_size=batch_size,
            device=device,
            file=file,
            pictures=file is not out,
        )
        return
    recipe = resolve_recipe(name, assignments=set_ or [])
    if not (checkpoint or pretrained or is_stored_name(name)):
        raise ConfigError(
            f"{name!r} would be evaluated with random weights: give --checkpoint FILE, --pretrained, or the "
            "name local-dir:FOLDER of a finished run."
        )
    model, splits = create_for(recipe, pretrained=pretrained, checkpoint=checkpoint)
    check_belongs(model, splits)
    for option, given in (("--robustness", robustness), ("--metric", metric)):
        if given and not isinstance(splits, Splits):
            raise ConfigError(f"{option} is of data sets with labels, and {splits.name!r} has none")
    for option, asked in (("--budgets", bool(settings)), ("--latency", latency)):
        if asked:
            check_dial(option, name, model)
    if generate and not writes_captions(model):
        raise ConfigError(f"--generate is of captioners, and {name!r} writes no captions")
    wishes = Asked(rerank, missing, protocol)
    sentences = sentences_for(model, splits, recipe.training.language)
    model.to(find_device(device or recipe.training.device))
    dataset = getattr(splits, split)
    if batch_size is None:
        batch_size = 2 * recipe.training.batch_size
    workers = recipe.training.num_workers
    console = Console()
    title = f"{name} on {splits.name}, {split} images"
    if isinstance(splits, ReidSplits):
        found_again = evaluate_identities(model, splits, split, wishes, batch_size=batch_size, num_workers=workers)
        show_identities(console, found_again, title)
        for path in keep_identities(found_again, model, splits, name, split, out or place_of_run(name), recipe.viz):
            console.print(f"  {path}", markup=False, soft_wrap=True)
        return
    wishes.refuse(splits.name)
    with counted("evaluate", passes(model, splits) * len(dataset)) as progress:
        report = evaluate_part(
            model,
            splits,
            split,
            batch_size=batch_size,
            num_workers=workers,
            metrics=metric,
            sentences=sentences,
            generation=parse_assignments(generate or [], "--generate"),
            progress=progress,
        )
    if robustness:
        with counted("robustness", (1 + sum(map(len, CORRUPTIONS.values()))) * len(dataset)) as progress:
            found = measure_robustness(
                model,
                dataset,
                mean=splits.mean,
                std=splits.std,
                seed=seed,
                batch_size=batch_size,
                num_workers=workers,
                progress=progress,
            )
        report = dataclasses.replace(report, robustness=found)
    points: tuple[FrontPoint, ...] = ()
    if settings:
        with counted("budgets", len(settings) * len(dataset)) as progress:
            points = evaluate_front(
                model,
                dataset,
                settings,
                batch_size=batch_size,
                num_workers=workers,
                metrics=metric or (),
                progress=progress,
            )
    if latency:
        report = with_latency(report, model, dataset)
    print_report(console, report, title)
    if points:
        console.print(front_table(points))
    if file is None:
        return
    data = {"model": name, "dataset": splits.name, "split": split, **report.to_dict()}
    write_json(file, {**data, "front": [point.to_dict() for point in points]} if points else data)
    pictures: list[Path] = []
    if file is not out:
        from moezoo.viz import evaluation_pictures

        pictures = evaluation_pictures(report, file.parent, title=title, dpi=recipe.viz.dpi)
        if points:
            pictures += front_pictures({name: points}, {}, None, file.parent, recipe.viz.dpi)
    for path in (file, *pictures):
        console.print(f"  {path}", markup=False, soft_wrap=True)
