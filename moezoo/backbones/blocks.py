"""Finding the blocks of a backbone in a trace: stages first (timm says where they end), then the blocks inside them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from moezoo.backbones.site import Block
from moezoo.backbones.trace import Trace

_STEM = re.compile(r"(^|\.)(stem|conv_stem|patch_embed|conv1|bn1|act1|norm_pre)\w*(\.|$)")
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_BLOCK_LISTS = ("blocks", "layers", "layer", "block", "stages")


@dataclass(frozen=True)
class StageInfo:
    """What timm's ``feature_info`` says of one stage."""

    module: str
    channels: int
    reduction: float


def feature_stages(model: nn.Module) -> list[StageInfo]:
    """timm's ``feature_info`` as plain data; empty when the model has none."""
    info = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info) or []
    return [StageInfo(str(e["module"]), int(e["num_chs"]), float(e["reduction"])) for e in entries if e.get("module")]


def find_blocks(traced: Trace) -> list[Block]:
    """All blocks in forward order.

    A *numbered group* is a list of modules whose names differ only in a number (``blocks.0``, ``blocks.1``, …; ``b1``,
    ``b2``, …). Stages are the group that ``feature_info`` points into; the blocks of a stage are the numbered group
    inside it whose last member returns what the stage returns. A stage without one is a single block.

    Empty when nothing in the model looks like a stack of blocks.
    """
    stages = feature_stages(traced.model)
    called = [s for s in stages if traced.called_once(s.module)]
    if stages and len(called) == len(stages):
        units = _units(traced, [s.module for s in called])
        uniform = len({s.reduction for s in called}) == 1 and len(called) > 1
    else:
        units, uniform = _largest_group(traced), False
    composite = [u for u in units if _is_composite(traced.model, u) and not _STEM.search(u)]
    units = composite or [u for u in units if not _STEM.search(u)] or units
    expanded = [[u] if uniform else _expand(traced, u) for u in units]
    if all(len(blocks) == 1 and blocks[0] == unit for blocks, unit in zip(expanded, units, strict=True)):
        groups = _by_resolution(units, called) if not uniform else [units]
        names = ["/".join(dict.fromkeys(u.rpartition(".")[0] or u for u in g)) if len(g) > 1 else g[0] for g in groups]
    else:
        groups, names = expanded, units
    alone = len(groups) == 1
    return [Block(name, s, names[s], i, alone) for s, group in enumerate(groups) for i, name in enumerate(group)]


def other_modules(traced: Trace, blocks: list[Block]) -> list[Block]:
    """Every module besides the blocks that runs once, for patterns that match no block; stage and index are -1."""
    known = {"", *(b.name for b in blocks)}
    return [Block(name, -1, "", -1) for name in traced.calls if name not in known and traced.called_once(name)]


def hook_and_holder(traced: Trace, block: str) -> tuple[str, str]:
    """The module to hook for ``block``, and the path inside it of the module that holds the adapter (``""``: itself).

    A child added to a container would be run by it. So a container gives way to the last module inside, if that returns
    the same tensor; otherwise (a dense block, which concatenates) it is hooked and its last inner module holds the
    adapter.
    """
    name = block
    while isinstance(traced.model.get_submodule(name), _CONTAINERS):
        returned = {id(t) for t in traced.outputs(name)}
        called = [c for c in _children(traced, name) if c in traced.calls]
        same = [c for c in called if returned & {id(t) for t in traced.outputs(c)}]
        if not same:
            holder = name
            while isinstance(traced.model.get_submodule(holder), _CONTAINERS):
                holder = max(
                    (c for c in _children(traced, holder) if c in traced.calls), key=lambda c: traced.calls[c][-1].order
                )
            return name, holder.removeprefix(name + ".")
        name = max(same, key=lambda c: traced.calls[c][-1].order)
    return name, ""


def _children(traced: Trace, name: str) -> list[str]:
    return [f"{name}.{child}" for child, _ in traced.model.get_submodule(name).named_children()]


def _units(traced: Trace, modules: list[str]) -> list[str]:
    """The feature modules and, between them, their numbered siblings (``blocks.3`` between ``blocks.2`` and ``.4``)."""
    units = set(modules)
    for module in modules:
        if not _STEM.search(module):
            units.update(s for s in _siblings(traced, module) if traced.called_once(s))
    return sorted(units, key=lambda u: traced.calls[u][0].order)


def _siblings(traced: Trace, name: str) -> list[str]:
    parent, _, leaf = name.rpartition(".")
    prefix = re.sub(r"\d+$", "", leaf)
    if prefix == leaf:
        return [name]
    children = [child for child, _ in traced.model.get_submodule(parent).named_children()]
    numbered = [c for c in children if re.fullmatch(re.escape(prefix) + r"\d+", c)]
    siblings = [f"{parent}.{c}" if parent else c for c in numbered]
    # Siblings count only when all are of one kind: 'features.4' of a VGG stands among convolutions and activations.
    kinds = {type(traced.model.get_submodule(s)) for s in siblings}
    return siblings if len(kinds) == 1 else [name]


def _expand(traced: Trace, stage: str) -> list[str]:
    """The blocks inside a stage, or the stage itself."""
    returned = {id(t) for t in traced.outputs(stage)}
    for holder, group in _groups_inside(traced, stage):
        if not any(_is_composite(traced.model, g) for g in group):
            continue
        tail = {id(t) for t in traced.outputs(group[-1])}
        if returned & tail or holder.rpartition(".")[2] in _BLOCK_LISTS:
            return group
    return [stage]


def _groups_inside(traced: Trace, stage: str) -> Iterable[tuple[str, list[str]]]:
    module = traced.model.get_submodule(stage)
    for holder in [stage, *(f"{stage}.{child}" for child, _ in module.named_children())]:
        yield from ((holder, group) for group in _numbered_groups(traced, holder))


def _numbered_groups(traced: Trace, holder: str) -> list[list[str]]:
    """Numbered children of ``holder`` that were called once, grouped by the text before the number."""
    groups: dict[str, list[str]] = {}
    for child, _ in traced.model.get_submodule(holder).named_children():
        match = re.fullmatch(r"(\D*)\d+", child)
        name = f"{holder}.{child}" if holder else child
        if match and traced.called_once(name):
            groups.setdefault(match.group(1), []).append(name)
    return list(groups.values())


def _largest_group(traced: Trace) -> list[str]:
    """Without ``feature_info``: the shallowest numbered group that holds most of the parameters."""
    best: tuple[tuple[int, int], list[str]] = ((0, 0), [])
    for holder, _ in traced.model.named_modules():
        for group in _numbered_groups(traced, holder):
            size = sum(p.numel() for name in group for p in traced.model.get_submodule(name).parameters())
            key = (size, -holder.count("."))
            if any(_is_composite(traced.model, name) for name in group) and key > best[0]:
                best = (key, group)
    return best[1]


def _by_resolution(units: list[str], stages: list[StageInfo]) -> list[list[str]]:
    """Group a flat list of blocks by the stage ends that ``feature_info`` names (efficientnet, hiera)."""
    ends = [s.module for s in stages if s.module in units]
    groups: list[list[str]] = [[]]
    for unit in units:
        groups[-1].append(unit)
        if unit in ends and unit != units[-1]:
            groups.append([])
    return [g for g in groups if g]


def _is_composite(model: nn.Module, name: str) -> bool:
    """Whether a module has children with parameters; a convolution, norm or activation has none."""
    return any(next(child.parameters(), None) is not None for child in model.get_submodule(name).children())
