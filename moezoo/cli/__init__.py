"""The ``moezoo`` command. One small file per verb; each imports what it needs when it runs."""

from __future__ import annotations

import sys

import typer

from moezoo.cli.ablate import ablate
from moezoo.cli.attention_routing import attention_routing
from moezoo.cli.bench import bench
from moezoo.cli.compress import compress
from moezoo.cli.convert import convert
from moezoo.cli.data import data
from moezoo.cli.diff_moe import diff_moe
from moezoo.cli.eval import eval_
from moezoo.cli.explain import explain
from moezoo.cli.export import export
from moezoo.cli.federate import federate
from moezoo.cli.info import info
from moezoo.cli.list import list_
from moezoo.cli.predict import predict
from moezoo.cli.pull import pull
from moezoo.cli.push import push
from moezoo.cli.quickstart import quickstart
from moezoo.cli.search import search
from moezoo.cli.train import train
from moezoo.cli.viz import viz
from moezoo.errors import MoeZooError

app = typer.Typer(
    name="moezoo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
    help="Vision Mixture-of-Experts: create, train, measure, look inside, export, share.",
)
app.command("list")(list_)
app.command("info")(info)
app.command("quickstart")(quickstart)
app.command("train")(train)
app.command("eval")(eval_)
app.command("predict")(predict)
app.command("bench")(bench)
app.command("viz")(viz)
app.command("explain")(explain)
app.command("diff-moe")(diff_moe)
app.command("ablate")(ablate)
app.command("federate")(federate)
app.command("export")(export)
app.command("compress")(compress)
app.command("push")(push)
app.command("pull")(pull)
app.add_typer(attention_routing, name="attention-routing")
app.add_typer(convert, name="convert")
app.add_typer(data, name="data")
app.add_typer(search, name="search")


def main() -> None:
    """Run the command line; our own errors become one message and exit code 1, or the signal's."""
    try:
        app()
    except MoeZooError as error:
        from rich.console import Console

        Console(stderr=True, soft_wrap=True).print(f"[bold red]error:[/] {type(error).__name__}: ", end="")
        print(error, file=sys.stderr)
        sys.exit(getattr(error, "exit_code", 1))  # Interrupted has its own
