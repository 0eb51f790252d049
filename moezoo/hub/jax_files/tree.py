"""Trees of arrays as flat mappings of ``/``-joined names, and back; where in a training state the parameters are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from moezoo.errors import InputError
from moezoo.names import did_you_mean

ROOTS = ("params/params", "params", "optimizer/target/params", "optimizer/target", "target/params", "target")
"""Under what training states keep the parameters, first match wins; bare parameters are under none of these."""


def flat(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves in JAX's order (mappings by sorted keys), with their names. ``None`` is no leaf."""
    if isinstance(tree, Mapping):
        for key in sorted(tree, key=str):
            yield from flat(tree[key], f"{prefix}/{key}" if prefix else str(key))
    elif isinstance(tree, list | tuple) and not hasattr(tree, "_fields"):
        for i, value in enumerate(tree):
            yield from flat(value, f"{prefix}/{i}" if prefix else str(i))
    elif tree is not None:
        yield prefix, tree


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings in mappings, from ``/``-joined names."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def find_root(names: Iterable[str], key: str | None, where: str) -> str:
    """What stands before the parameters' names, with its ``/``; empty where the file is the parameters alone.

    Args:
        names: Of all leaves.
        key: Where the user says that they are.
        where: The file, for the message.

    Raises:
        InputError: Nothing is under ``key``.
    """
    names = list(names)
    for root in ROOTS if key is None else (key.strip("/"),):
        if any(name.startswith(f"{root}/") for name in names):
            return f"{root}/"
    if key is None:
        return ""
    folders = {name[:i] for name in names for i, sign in enumerate(name) if sign == "/"}
    raise InputError(f"{where}: key={key!r}: there is nothing under it.{did_you_mean(key, folders)} {told(names)}")


def told(names: Iterable[str]) -> str:
    """What is in a tree, by its top level."""
    counts = Counter(name.partition("/")[0] for name in names)
    return "It holds " + ", ".join(f"{top} ({n})" if n > 1 else top for top, n in counts.items()) + "."
