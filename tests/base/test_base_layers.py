"""The architecture, read off the source: who may import whom, and that the library never prints."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import moezoo

ROOT = Path(moezoo.__file__).parent
FLOORS = (
    {"errors", "lazy"},
    {"names"},
    {"config"},
    {"plugins"},
    {"parts"},
    {"registration"},
    {"registry"},
    {"moe"},
    {"backbones"},
    {"altered"},
    {"models", "hub", "data", "recipes"},
    {"factory"},
    {"measure"},
    {"eval", "timm", "transformers"},
    {"train", "export", "compress"},
    {"viz", "ablate", "federated", "search"},
    {"functions"},
    {"cli"},
)
"""From the ground up. ``functions`` are the modules of that name in a family: ready calls of the factory."""
FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}
FACADE = {"__init__", "__main__"}
"""The top-level facade may name every room: it imports them when they are first used."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """Every module of the package as its dotted name below ``moezoo`` and its syntax tree."""
    for path in sorted(ROOT.rglob("*.py")):
        dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield dotted, ast.parse(path.read_text(encoding="utf-8"))


def imports(dotted: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """What a module imports from moezoo, dotted below ``moezoo``, wherever in the file, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("moezoo."):
                    yield alias.name.removeprefix("moezoo."), node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{dotted}:{node.lineno}: imports are absolute"
            if node.module == "moezoo":
                for alias in node.names:
                    yield alias.name, node.lineno
            elif node.module and node.module.startswith("moezoo."):
                for alias in node.names:
                    yield f"{node.module.removeprefix('moezoo.')}.{alias.name}", node.lineno


def room(dotted: str) -> str:
    parts = dotted.split(".")
    return "functions" if parts[0] == "models" and "functions" in parts else parts[0]


def test_every_room_has_a_floor():
    rooms = {room(dotted) for dotted, _ in modules()} - FACADE
    assert rooms <= set(FLOOR), f"give {sorted(rooms - set(FLOOR))} a floor"


def test_imports_only_go_down():
    wrong = []
    for dotted, tree in modules():
        here = room(dotted)
        if here in FACADE:
            continue
        for target, line in imports(dotted, tree):
            there = room(target)
            if there == here or there not in FLOOR:
                continue
            if FLOOR[there] >= FLOOR[here]:
                wrong.append(f"moezoo/{dotted.replace('.', '/')}.py:{line} imports moezoo.{target}")
    assert wrong == []


def test_routers_and_experts_know_each_other_only_through_types_checks_and_dispatch():
    wrong = []
    for dotted, tree in modules():
        for one, other in (("moe.routers", "moe.experts"), ("moe.experts", "moe.routers")):
            if dotted.startswith(one + "."):
                wrong += [
                    f"{dotted}:{line} imports {target}"
                    for target, line in imports(dotted, tree)
                    if target.startswith((other, "moe.layer", "moe.losses"))
                ]
    assert wrong == []


def test_losses_see_a_routing_and_never_a_module():
    wrong = [
        f"{dotted}:{line} imports {target}"
        for dotted, tree in modules()
        if dotted.startswith("moe.losses.")
        for target, line in imports(dotted, tree)
        if target.startswith(("moe.layer", "moe.routers", "moe.experts"))
    ]
    assert wrong == []


def test_the_base_and_the_configurations_do_not_import_torch():
    free = {
        "names",
        "errors",
        "config",
        "registration",
        "registry",
        "lazy",
        "parts",
        "plugins",
        "__init__",
        "__main__",
        "altered.__init__",
        "altered.said",
        "data.__init__",
        "data.catalogue",
        "data.images",
        "data.options",
        "data.signature",
        "data.skipped",
        "data.text.__init__",
        "data.text.bpe",
        "data.text.clip",
        "data.text.labels",
        "data.text.make",
        "data.text.sentences",
        "hub.schema",
        "hub.stored",
        "hub.stored_config",
        "hub.stored_model",
        "hub.files",
        "hub.swap",
        "hub.processor",
    }
    wrong = []
    for dotted, tree in modules():
        if dotted in free or (dotted.startswith("models.") and dotted.endswith((".config", ".presets"))):
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                wrong += [
                    f"{dotted}: {name}" for name in names if name.split(".")[0] in ("torch", "timm", "transformers")
                ]
    assert wrong == []


def test_nothing_up_to_the_factory_prints():
    wrong = []
    for dotted, tree in modules():
        if room(dotted) in FACADE or FLOOR[room(dotted)] > FLOOR["factory"]:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
                wrong.append(f"moezoo/{dotted.replace('.', '/')}.py:{node.lineno}")
    assert wrong == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import moezoo.cli", ["cli"]),
        ("from moezoo.moe.types import Routing", ["moe.types.Routing"]),
        ("from moezoo import factory", ["factory"]),
        ("def f():\n    from moezoo.train.loop import Trainer", ["train.loop.Trainer"]),
        ("import torch\nfrom torch import nn", []),
    ],
)
def test_the_walk_sees_every_form_of_import(source, found):
    assert [target for target, _ in imports("x", ast.parse(source))] == found
