"""``moezoo convert``: other people's files as those that moezoo reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

convert = typer.Typer(no_args_is_help=True, help="Convert other people's weights.")


@convert.callback()
def _kinds() -> None:
    """Convert other people's weights."""


@convert.command("pth")
def pth(
    file: Annotated[Path, typer.Argument(help="a .pth, .pt, .bin or .ckpt file of torch.save")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="by default FILE with .safetensors")] = None,
    key: Annotated[str | None, typer.Option(help="where in the checkpoint the state dict is, for example ema")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace the new file where it exists")] = False,
) -> None:
    """Write the tensors of a pickled checkpoint as safetensors, without running anything in it."""
    from rich.console import Console

    from moezoo.hub import convert_pth

    with Console(stderr=True).status("convert"):
        written = convert_pth(file, out, key=key, overwrite=overwrite)
    Console().print(f"  {written}", markup=False, highlight=False, soft_wrap=True)


@convert.command("vmoe")
def vmoe(
    source: Annotated[
        str,
        typer.Argument(
            help="a checkpoint of google-research/vmoe: flax msgpack, .npz, or the prefix of a partitioned one; with "
            "--to-jax a folder of ours"
        ),
    ],
    config: Annotated[
        str | None, typer.Option(help="the reference's configuration, .json or .yaml, or a name such as vmoe/b16")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="the folder of the new model")] = None,
    to_jax: Annotated[
        Path | None, typer.Option(help="the other way: a .npz or .msgpack file, with its configuration beside it")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="where in the checkpoint the parameters are, for example params/img")
    ] = None,
    img_size: Annotated[
        str | None, typer.Option(help="side of the images, or HEIGHTxWIDTH; positions are resized where need be")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="key=value over the configuration, in our words")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="with --to-jax: replace files that exist")] = False,
) -> None:
    """V-MoE and Soft MoE from the JAX reference's checkpoints, and back. JAX is not needed."""
    from rich.console import Console

    from moezoo.cli.log import log_shown
    from moezoo.config import parse_assignments
    from moezoo.errors import ConfigError
    from moezoo.models.vmoe.functions import convert_checkpoint, convert_to_jax

    shown, console = Console(stderr=True), Console()
    if to_jax is not None:
        if given := [name for name, value in {"--config": config, "--out": out, "--key": key}.items() if value]:
            raise ConfigError(f"{given[0]} is not allowed with --to-jax: the folder says what the model is.")
        with log_shown(shown), shown.status("convert"):
            written = convert_to_jax(source, to_jax, overwrite=overwrite)
        for path in written:
            console.print(f"  {path}", markup=False, highlight=False, soft_wrap=True)
        return
    if config is None or out is None:
        raise ConfigError(f"{'--config' if config is None else '--out'} is missing.")
    with log_shown(shown), shown.status("convert"):
        made = convert_checkpoint(
            source, config, out, key=key, img_size=_sides(img_size), **parse_assignments(set_ or [])
        )
    console.print(f"  {made.family}, {made.parameters:,} parameters", highlight=False)
    if made.left_out:
        tops = dict.fromkeys(name.partition("/")[0] for name in made.left_out)
        console.print(f"  left out: {', '.join(tops)} ({len(made.left_out)} arrays)", markup=False, highlight=False)
    console.print(f"  {made.folder}", markup=False, highlight=False, soft_wrap=True)


def _sides(text: str | None) -> int | tuple[int, int] | None:
    from moezoo.errors import ConfigError

    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdecimal() for side in sides):
        raise ConfigError(f"--img-size={text!r} is not allowed: it must be a number, or HEIGHTxWIDTH.")
    return int(sides[0]) if len(sides) == 1 else (int(sides[0]), int(sides[1]))
