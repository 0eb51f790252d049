"""A way of training on disk: one file per method, replaced after every round, so that it is always a whole round."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from moezoo.errors import CheckpointError
from moezoo.eval.plain import plain
from moezoo.federated.result import RoundResult
from moezoo.federated.split import State
from moezoo.hub.files import move_into_place, output_errors, seal

FOLDER = "checkpoints"


@dataclass
class Standing:
    """Where a method stands after a round."""

    rounds: list[RoundResult]
    state: State
    """The global tensors."""
    local: list[State]
    """Each client's own."""


def checkpoint_path(folder: Path, method: str) -> Path:
    """Where the standing of a method lies."""
    return folder / FOLDER / f"{method}.safetensors"


def save_standing(path: Path, standing: Standing, facts: Mapping[str, Any]) -> None:
    """Replace the file; a process that is killed here leaves the one before.

    Raises:
        OutputError: It cannot be written.
    """
    tensors = {f"global/{name}": tensor for name, tensor in standing.state.items()}
    for client, local in enumerate(standing.local):
        tensors |= {f"client{client}/{name}": tensor for name, tensor in local.items()}
    told = {
        "facts": facts,
        "clients": len(standing.local),
        "rounds": [plain(dataclasses.asdict(each)) for each in standing.rounds],
    }
    draft = path.with_suffix(".part")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, draft, {"moezoo": json.dumps(told)})
        seal(draft)
        move_into_place(draft, path)


def load_standing(path: Path, facts: Mapping[str, Any]) -> Standing | None:
    """What lies there; ``None`` if nothing does.

    Raises:
        CheckpointError: It is damaged, or of another simulation: what differs is named.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            told = json.loads((file.metadata() or {})["moezoo"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        rounds = [RoundResult.from_dict(each) for each in told["rounds"]]
        saved, clients = told["facts"], range(told["clients"])
    except (SafetensorError, OSError, ValueError, LookupError, TypeError) as error:
        raise CheckpointError(f"{str(path)!r} is damaged ({error}): remove it, and it is trained again.") from None
    wrong = _differences(saved, json.loads(json.dumps(facts)))
    if wrong:
        raise CheckpointError(
            f"{str(path.parent.parent)!r} holds another simulation: {'; '.join(wrong)}. Set them as they were, take "
            "another folder, or drop what lies there (overwrite)."
        )
    return Standing(rounds, _under(tensors, "global/"), [_under(tensors, f"client{k}/") for k in clients])


def drop_standings(folder: Path, methods: Sequence[str]) -> None:
    """Remove what a simulation left here, and nothing else."""
    with output_errors(folder):
        for path in (*(checkpoint_path(folder, method) for method in methods), folder / "federated.json"):
            path.unlink(missing_ok=True)


def _under(tensors: State, begin: str) -> State:
    return {name.removeprefix(begin): tensor for name, tensor in tensors.items() if name.startswith(begin)}


def _differences(old: Any, new: Any, where: str = "") -> list[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [found for key in keys for found in _differences(old.get(key), new.get(key), f"{where}.{key}")]
    return [] if old == new else [f"{where.lstrip('.')}: {old!r} there, {new!r} now"]
