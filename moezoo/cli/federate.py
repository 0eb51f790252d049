"""``moezoo federate``: train a model at clients that keep their images and their local experts to themselves."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moezoo.cli.options import ModelToTrain, RecipeFile, StartPretrained
from moezoo.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from moezoo.federated import FederatedConfig
    from moezoo.train import Recipe


def federate(
    name: ModelToTrain,
    clients: Annotated[int, typer.Option(help="clients, each with a share of the training images")] = 4,
    rounds: Annotated[int, typer.Option(help="rounds of training and averaging")] = 10,
    local_epochs: Annotated[int, typer.Option(help="passes over a client's images in a round")] = 1,
    partition: Annotated[
        str, typer.Option(help="dirichlet, by_class or iid; with --join also none: all images are this client's")
    ] = "dirichlet",
    alpha: Annotated[float, typer.Option(help="of the Dirichlet distribution: the smaller, the less alike")] = 0.3,
    local_experts: Annotated[
        str, typer.Option(help="experts of every MoE layer that stay, for example -1 or 2,3; none: all are averaged")
    ] = "-1",
    local_dropout: Annotated[
        float, typer.Option(help="share of a client's steps that leave its local experts out, from 0 to less than 1")
    ] = 0.75,
    baselines: Annotated[
        str, typer.Option(help="also trained: fedavg,local,central, or none")
    ] = "fedavg,local,central",
    config: RecipeFile = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over both, for example training.lr=0.001")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="folder; by default runs/federated-<model>")] = None,
    pretrained: StartPretrained = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="drop the simulation that the folder holds")] = False,
    serve: Annotated[str | None, typer.Option(help="HOST:PORT: be the server of real clients (Flower)")] = None,
    join: Annotated[str | None, typer.Option(help="HOST:PORT of the server: be one client (Flower)")] = None,
    client: Annotated[int, typer.Option(help="with --join: this client's number, from 0")] = 0,
    timeout: Annotated[float, typer.Option(help="with --serve and --join: seconds to wait for the others")] = 600.0,
) -> None:
    """Simulate federated training on this machine and compare it with its baselines; or serve, or join, a real one.

    Local experts never leave their client; everything else is averaged after every round, experts by the tokens they
    saw. The same command goes on where an earlier one was stopped or killed.
    """
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.federated import FederatedConfig
    from moezoo.train import resolve_recipe

    if serve is not None and join is not None:
        raise ConfigError("--serve and --join: one process is either the server or a client.")
    recipe = resolve_recipe(name, file=config, assignments=set_ or [])
    folder = out or Path("runs") / f"federated-{name.strip('/').replace('/', '-').replace(':', '-')}"
    console = Console()
    asked: dict[str, Any] = {"partition": "iid" if partition == "none" and join is not None else partition}
    settings = FederatedConfig(
        clients,
        rounds,
        local_epochs,
        alpha=alpha,
        local_experts=_numbers(local_experts),
        local_dropout=local_dropout,
        baselines=_words(baselines),
        **asked,
    )
    with log_shown(console):
        if serve is not None:
            _serve(recipe, settings, serve, folder, console, pretrained, timeout)
        elif join is not None:
            _join(recipe, settings, join, client, folder, console, pretrained, timeout, whole=partition == "none")
        else:
            _simulate(recipe, settings, folder, console, pretrained, overwrite)


def _simulate(
    recipe: Recipe, settings: FederatedConfig, folder: Path, console: Console, pretrained: bool, overwrite: bool
) -> None:
    from moezoo.federated import simulate
    from moezoo.federated.progress import FederatedBar
    from moezoo.federated.tables import federated_table
    from moezoo.hub.save import save_pretrained
    from moezoo.train import create_for, probe_folder
    from moezoo.viz import federated_figure, save_figure

    probe_folder(folder)
    what = f"{recipe.name} on {recipe.dataset}: {settings.clients} clients, {settings.rounds} rounds, into {folder}"
    console.print(f"Federating {what}", markup=False, highlight=False, soft_wrap=True)
    model, splits = create_for(recipe, pretrained=pretrained)
    watcher = FederatedBar(recipe.name, console)
    found = simulate(
        model,
        splits,
        settings,
        training=recipe.training,
        out=folder,
        overwrite=overwrite,
        watcher=watcher,
    )
    console.print(federated_table(found.result))
    picture = save_figure(federated_figure(found.result.to_dict()), folder / "federated.png", dpi=recipe.viz.dpi)
    for client in range(settings.clients):
        save_pretrained(
            found.client_model(client), folder / "clients" / str(client), label_names=found.result.label_names
        )
    for path in (folder / "federated.json", picture, folder / "clients"):
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)


def _serve(
    recipe: Recipe,
    settings: FederatedConfig,
    address: str,
    folder: Path,
    console: Console,
    pretrained: bool,
    timeout: float,
) -> None:
    from safetensors.torch import save_file

    from moezoo.federated import split_parameters
    from moezoo.federated.flower import serve
    from moezoo.train import create_for, probe_folder
    from moezoo.train.output import write_json

    probe_folder(folder)
    model, _ = create_for(recipe, pretrained=pretrained)
    split = split_parameters(model, settings.local_experts)
    console.print(f"Waiting for {settings.clients} clients at {address}", markup=False, highlight=False)
    found = serve(model, split, address=address, clients=settings.clients, rounds=settings.rounds, timeout=timeout)
    save_file(found.state, folder / "global.safetensors")
    write_json(folder / "server.json", {"model": recipe.name, "rounds": list(found.rounds)})
    for path in (folder / "global.safetensors", folder / "server.json"):
        console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)


def _join(
    recipe: Recipe,
    settings: FederatedConfig,
    address: str,
    number: int,
    folder: Path,
    console: Console,
    pretrained: bool,
    timeout: float,
    *,
    whole: bool,
) -> None:
    from moezoo.federated import share_of, split_parameters
    from moezoo.federated.flower import join
    from moezoo.hub.save import save_pretrained
    from moezoo.train import create_for, probe_folder

    place = probe_folder(folder / f"client-{number}")
    model, splits = create_for(recipe, pretrained=pretrained)
    split = split_parameters(model, settings.local_experts)
    own, counts = share_of(number, model, splits, settings, recipe.training, split, whole=whole)
    console.print(f"Client {number} with {own.images} images joins {address}", markup=False, highlight=False)
    trained = join(own, counts, address=address, timeout=timeout)
    save_pretrained(trained, place, label_names=own.splits.label_names)
    console.print(f"  {place}", markup=False, highlight=False, soft_wrap=True)


def _numbers(given: str) -> tuple[int, ...]:
    """``"-1"`` or ``"2,3"``; ``"none"`` is nothing."""
    words = _words(given)
    if wrong := [word for word in words if not re.fullmatch(r"-?\d+", word)]:
        raise ConfigError(f"--local-experts {wrong[0]!r} is not allowed: numbers such as -1 or 2,3, or none.")
    return tuple(int(word) for word in words)


def _words(given: str) -> tuple[str, ...]:
    words = [word.strip() for word in given.split(",") if word.strip()]
    return () if words == ["none"] else tuple(words)
