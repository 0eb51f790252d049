"""``moezoo push``: a saved model onto the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer


def push(
    name: Annotated[str, typer.Argument(help="folder of a saved model, or a name that has pretrained weights")],
    repo_id: Annotated[str, typer.Argument(metavar="REPO", help="user/repo; created if it does not exist")],
    private: Annotated[
        bool, typer.Option("--private", help="create it private; an existing public one is refused")
    ] = False,
    revision: Annotated[str | None, typer.Option(help="branch, created if it does not exist")] = None,
    message: Annotated[str | None, typer.Option("--message", "-m", help="title of the commit")] = None,
    create_pr: Annotated[bool, typer.Option("--create-pr", help="propose it as a pull request")] = False,
    retry_conflict: Annotated[
        bool, typer.Option("--retry-conflict", help="push on top of what somebody else pushes meanwhile")
    ] = False,
    no_backbone: Annotated[
        bool, typer.Option("--no-backbone", help="only the MoE and the head; the backbone must be the published one")
    ] = False,
) -> None:
    """Push a model as one commit. The token is the saved one (hf auth login) or HF_TOKEN, never an argument."""
    from rich.console import Console

    from moezoo.cli.weights import stored_source
    from moezoo.factory import create_model
    from moezoo.hub import push_folder, push_to_hub, read_stored
    from moezoo.names import is_stored_name
    from moezoo.registry import is_model

    options: dict[str, Any] = {
        "private": private,
        "revision": revision,
        "commit_message": message,
        "create_pr": create_pr,
        "on_conflict": "retry" if retry_conflict else "error",
    }
    if not is_stored_name(name) and not is_model(name) and Path(name).exists():
        name = f"local-dir:{name}"
    with Console(stderr=True).status("push"):
        source = stored_source(name)
        if source is not None and source.startswith("local-dir:") and not no_backbone:
            pushed = push_folder(source.removeprefix("local-dir:"), repo_id, **options)
        else:
            if source is not None:
                stored = read_stored(source)
                options |= {"metrics": stored.metrics, "routing": stored.routing, "flops": stored.flops}
            model = create_model(name, pretrained=True)
            pushed = push_to_hub(model, repo_id, include_backbone=not no_backbone, **options)
    Console().print(f"  {pushed}", markup=False, highlight=False, soft_wrap=True)
