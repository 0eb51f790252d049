"""``moezoo explain``: why a model decided as it did about single images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moezoo.cli.options import Checkpoint, Device, Fields, FinishedModel, TakePretrained

if TYPE_CHECKING:
    from torch import Tensor, nn

    from moezoo.train import Recipe


def explain(
    name: FinishedModel,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="image files or folders, of several spectra any one of each sighting; by default test images of the "
            "model's data set"
        ),
    ] = None,
    match: Annotated[
        list[str] | None,
        typer.Option(help="of a model that compares features: the file that a file is like; one for each, or one"),
    ] = None,
    against: Annotated[
        list[str] | None, typer.Option(help="files or folders of others, that the match is told from; may be repeated")
    ] = None,
    target: Annotated[int | None, typer.Option(help="class to explain; by default the predicted one")] = None,
    images: Annotated[int, typer.Option("--images", "-n", help="images to explain, at most")] = 4,
    method: Annotated[str, typer.Option(help="occlusion, or gradient (integrated gradients)")] = "occlusion",
    cells: Annotated[
        tuple[int, int] | None, typer.Option(help="rows and columns of the map; by default 8 on the longer side")
    ] = None,
    fill: Annotated[str, typer.Option(help="what stands in erased cells: mean or blur")] = "mean",
    steps: Annotated[int, typer.Option(help="points of the curves of deletion and insertion")] = 16,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", help="variants per forward")] = 32,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the pictures and explanation.json")] = Path(
        "explanation"
    ),
    device: Device = "auto",
    checkpoint: Checkpoint = None,
    pretrained: TakePretrained = False,
    set_: Fields = None,
) -> None:
    """Say which spectrum, region, scale and expert decided, how far that can be trusted, and draw it."""
    import json

    from rich.console import Console

    from moezoo.cli.counting import stepped
    from moezoo.errors import ConfigError
    from moezoo.eval import explain_decision
    from moezoo.factory import create_model
    from moezoo.hub.files import output_errors
    from moezoo.moe.checks import check_int
    from moezoo.names import is_stored_name
    from moezoo.train import create_for, find_device, probe_folder, resolve_recipe
    from moezoo.viz import explanation_figure, save_figure

    check_int("images", images, low=1)
    if (match or against) and not files:
        raise ConfigError("--match and --against are of files: in a data set the nearest right answer is the match.")
    stored = is_stored_name(name)
    recipe = resolve_recipe(name, assignments=set_ or [], needs_data=not files)
    folder = probe_folder(out)
    if files:
        model = create_model(name, pretrained or stored, checkpoint_path=checkpoint, **recipe.model)
        model.to(find_device(device)).eval()
        given = _of_files(model, files, match or [], against or [], images)
    else:
        model, splits = create_for(recipe, pretrained=pretrained, checkpoint=checkpoint)
        model.to(find_device(device)).eval()
        given = _of_data(model, splits, recipe, images)
    titles, batch, pixels, options = given
    with stepped("explain") as tell:
        found = explain_decision(
            model,
            batch,
            target=target,
            method=method,
            cells=cells,
            fill=fill,
            steps=steps,
            batch_size=batch_size,
            progress=lambda what, done, of: tell(done, of, what),
            **options,
        )
    console = Console()
    if not (checkpoint or pretrained or stored):
        console.print("[yellow]The weights are random: these are reasons of an untrained model.[/]")
    told = found.to_dict()
    for number, (title, case) in enumerate(zip(titles, found, strict=True)):
        console.print(f"[bold]{number + 1}[/]  ", end="")
        console.print(title, style="bold", markup=False, highlight=False)
        console.print(case.text(), markup=False, highlight=False)
        told["cases"][number]["image"] = title
        path = save_figure(explanation_figure(found, pixels, case=number), folder / f"explanation_{number + 1}.png")
        console.print(f"  {path}", markup=False, soft_wrap=True, highlight=False)
    target_file = folder / "explanation.json"
    with output_errors(folder):
        target_file.write_text(json.dumps({"model": name, **told}, indent=2) + "\n", encoding="utf-8")
    console.print(f"  {target_file}", markup=False, soft_wrap=True, highlight=False)


def _of_files(
    model: nn.Module, files: list[str], match: list[str], against: list[str], images: int
) -> tuple[list[str], Tensor, Tensor, dict[str, Any]]:
    """Titles, prepared images, their pixels, and options of :func:`moezoo.eval.explain_decision`."""
    import torch
    from rich.console import Console

    from moezoo.errors import ConfigError
    from moezoo.eval.explanation.kind import gives_features
    from moezoo.viz.routed import pixels_of

    paths = _paths(model, files, images + 1)
    if len(paths) > images:
        Console(stderr=True).print(
            f"[yellow]Only the first {images} of the files are explained: --images takes more.[/]"
        )
    paths = paths[:images]
    batch, present = _read(model, paths)
    options: dict[str, Any] = {"present": present}
    if (match or against) and not gives_features(model):
        raise ConfigError("--match and --against are not allowed: the model says classes, and compares no features.")
    if against:
        options["against"], there = _read(model, _paths(model, against))
        if there is not None:
            raise ConfigError("--against: others must be there in every spectrum.")
    if match:
        others, others_present = _read(model, _paths(model, match, images))
        if len(others) not in (1, len(batch)):
            raise ConfigError(f"--match must be one sighting, or one for each of {len(batch)}, got {len(others)}.")
        each = torch.arange(len(batch)) if len(others) > 1 else torch.zeros(len(batch), dtype=torch.long)
        options["match"] = others[each]
        options["match_present"] = None if others_present is None else others_present[each]
    return paths, batch, pixels_of(model, batch), options


def _paths(model: nn.Module, files: list[str], most: int | None = None) -> list[str]:
    """The first ``most`` images or sightings behind files and folders."""
    from itertools import islice

    from moezoo.eval.embed import found_paths

    return list(islice(found_paths(model, files), most))


def _read(model: nn.Module, paths: list[str]) -> tuple[Tensor, Tensor | None]:
    """(B, C, H, W) or (B, M, C, H, W) prepared images, and which spectra there are, if not all of all."""
    import torch

    from moezoo.data.images import read_image
    from moezoo.eval.image_transform import image_transform
    from moezoo.eval.reading import finds_identities
    from moezoo.eval.sightings import SightingReader

    if not finds_identities(model):
        transform = image_transform(model)
        return torch.stack([transform(read_image(path)) for path in paths]), None
    read = SightingReader(model, allow_missing=True)
    batch, present = (torch.stack(column) for column in zip(*(read(path) for path in paths), strict=True))
    return batch, None if bool(present.all()) else present


def _of_data(
    model: nn.Module, splits: Any, recipe: Recipe, images: int
) -> tuple[list[str], Tensor, Tensor, dict[str, Any]]:
    """The same of test images; a query is compared with its nearest right answer."""
    import torch

    from moezoo.data import Splits
    from moezoo.data.reid.splits import ReidSplits
    from moezoo.errors import ConfigError
    from moezoo.viz.look import examples
    from moezoo.viz.reid import right_answers

    if isinstance(splits, ReidSplits):
        titles, batch, match, against = right_answers(model, splits, images, batch_size=recipe.training.batch_size)
        return titles, batch, splits.to_pixels(batch), {"match": match, "against": against}
    if not isinstance(splits, Splits):
        raise ConfigError(f"{splits.name} has neither classes nor identities: there is no single decision to explain.")
    indices = examples(splits.test, images)
    batch = torch.stack([splits.test[i][0] for i in indices])
    titles = [f"test image {i}, {splits.label_names[splits.test[i][1]]}" for i in indices]
    return titles, batch, splits.to_pixels(batch), {"label_names": splits.label_names}
