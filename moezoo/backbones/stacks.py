"""Stacks: modules whose names differ only in a number, which is how every backbone lists its stages and blocks."""

from __future__ import annotations

import re
from collections.abc import Iterable

from torch import nn

from moezoo.backbones.trace import BATCH, Trace

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_STEM = re.compile(r"(^|\.)(\w*stem|patch_embed|conv1|bn1|act1|norm_pre)\w*(\.|$)")
_NUMBERED = re.compile(r"(\D*|.*_)\d+[a-z]?")
"""``3``, ``layer3``, ``conv4_12`` and, as the Inceptions count, ``Mixed_6b``; not ``conv_1x1``."""


def is_stem(name: str) -> bool:
    """Whether a module's path says that it stands before the blocks."""
    return _STEM.search(name) is not None


def prefix_of(leaf: str) -> str | None:
    """The text before the number of a numbered name, else ``None``."""
    match = _NUMBERED.fullmatch(leaf)
    return match.group(1) if match else None


def children(traced: Trace, name: str) -> list[str]:
    """Paths of a module's children."""
    return [f"{name}.{child}" if name else child for child, _ in traced.model.get_submodule(name).named_children()]


def runs(traced: Trace, name: str) -> bool:
    """Whether a module runs once, or is a plain list of modules of which some do."""
    if traced.called_once(name):
        return True
    is_list = isinstance(traced.model.get_submodule(name), nn.ModuleList) and name not in traced.calls
    return is_list and any(traced.called_once(child) for child in children(traced, name))


def start(traced: Trace, name: str) -> int:
    """When a module that :func:`runs` ran, for sorting."""
    calls = traced.calls.get(name)
    return (
        calls[0].order if calls else min(traced.calls[c][0].order for c in children(traced, name) if c in traced.calls)
    )


def stacks_in(traced: Trace, holder: str) -> list[list[str]]:
    """The numbered children of ``holder`` that run once, grouped by the text before the number."""
    stacks: dict[str, list[str]] = {}
    for name in children(traced, holder):
        prefix = prefix_of(name.rpartition(".")[2])
        if prefix is not None and traced.called_once(name):
            stacks.setdefault(prefix, []).append(name)
    return list(stacks.values())


def siblings(traced: Trace, name: str) -> list[str]:
    """``name`` and what stands beside it under the same name with another number."""
    parent, _, leaf = name.rpartition(".")
    prefix = prefix_of(leaf)
    if prefix is None:
        return [name]
    return [c for c in children(traced, parent) if prefix_of(c.rpartition(".")[2]) == prefix and runs(traced, c)]


def matrices(model: nn.Module, name: str) -> int:
    """How many true matrices (convolutions, linear maps) are among a module's parameters."""
    return sum(p.numel() > max(p.shape, default=1) for p in model.get_submodule(name).parameters())


def size(model: nn.Module, names: Iterable[str]) -> int:
    """Parameters of disjoint modules."""
    return sum(p.numel() for name in names for p in model.get_submodule(name).parameters())


def substantial(model: nn.Module, names: list[str]) -> list[str]:
    """Without the stem, single layers, and the lone convolutions that stand between blocks or after them.

    A block has more than one matrix; where none of ``names`` has, a norm or an activation beside the one will do.
    """
    composite = [n for n in names if is_composite(model, n) and not is_stem(n)]
    return [n for n in composite if matrices(model, n) > 1] or composite


def is_composite(model: nn.Module, name: str) -> bool:
    """Whether a module has children with parameters; a convolution, norm or activation has none."""
    return any(next(child.parameters(), None) is not None for child in model.get_submodule(name).children())


def largest_family(traced: Trace) -> list[list[str]]:
    """The stacks with most of the parameters among those whose paths differ only in numbers (``blocks.0.*``, …).

    Those whose members have more than one matrix come first; of equal ones, the shallowest.
    """
    families: dict[str, list[list[str]]] = {}
    for holder, _ in traced.model.named_modules():
        for stack in stacks_in(traced, holder):
            members = substantial(traced.model, stack)
            if members:
                families.setdefault(re.sub(r"\d+", "#", members[0]), []).append(members)

    def rank(family: str) -> tuple[bool, int, int]:
        names = [name for stack in families[family] for name in stack]
        return any(matrices(traced.model, n) > 1 for n in names), size(traced.model, names), -family.count(".")

    # A lone number may belong to a name: 'dinov2' is no member of a stack, '0' and the only block of a stage are.
    several = [f for f, s in families.items() if f.rpartition(".")[2] == "#" or sum(map(len, s)) > 1]
    return families[max(several, key=rank)] if several else []


def area(traced: Trace, name: str) -> int:
    """Positions of the map or sequence that a block returns, of the widest one where it returns several; 0: unknown."""
    _, height, width = traced.input_size
    found = []
    for feature in (t for t in traced.outputs(name) if t.dim() in (3, 4) and t.shape[0] == BATCH):
        shape = feature.shape
        if feature.dim() == 3:
            found.append((shape[2], shape[1]))
        else:
            for (rows, columns), channels in (((shape[2], shape[3]), shape[1]), ((shape[1], shape[2]), shape[3])):
                if abs(rows * width - columns * height) < max(width, height):
                    found.append((channels, rows * columns))
                    break
    return max(found, key=lambda f: (f[0], -f[1]))[1] if found else 0
