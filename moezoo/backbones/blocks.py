"""Finding the blocks of a backbone in a trace: stages first (timm says where they end), then the blocks inside them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from moezoo.backbones.site import Block
from moezoo.backbones.stacks import CONTAINERS, area, children, largest_family, prefix_of, substantial
from moezoo.backbones.stages import feature_stages, passed_over, stages_of, units_of
from moezoo.backbones.trace import Trace


def find_blocks(traced: Trace) -> list[Block]:
    """All blocks in forward order.

    *Units* are the modules that ``feature_info`` points at or into, with their numbered siblings, or the largest family
    of numbered modules where it passes that over. A unit is a stage when a stack inside it is what it consists of,
    otherwise a block. Blocks that no stages group are grouped by the resolution of what they return.

    Empty when nothing in the model looks like a stack of blocks.
    """
    units, family = units_of(traced), largest_family(traced)
    if passed_over(traced, units, [name for stack in family for name in stack]):
        units = family[0] if len(family) == 1 else []
    stages = stages_of(traced, units) if units else [(stack[0].rpartition(".")[0], stack) for stack in family]
    kept = set(substantial(traced.model, [name for _, stack in stages for name in stack]))
    stages = [(name, [b for b in stack if b in kept]) for name, stack in stages]
    stages = [(name, stack) for name, stack in stages if stack]
    if not stages:
        return _listed(_by_resolution(traced, _activations(traced)))
    return _listed(_by_resolution(traced, units) if all(stack == [name] for name, stack in stages) else stages)


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
    while isinstance(traced.model.get_submodule(name), CONTAINERS):
        returned = {id(t) for t in traced.outputs(name)}
        called = [c for c in children(traced, name) if c in traced.calls]
        same = [c for c in called if returned & {id(t) for t in traced.outputs(c)}]
        if not same:
            holder = name
            while isinstance(traced.model.get_submodule(holder), CONTAINERS):
                holder = max(
                    (c for c in children(traced, holder) if c in traced.calls), key=lambda c: traced.calls[c][-1].order
                )
            return name, holder.removeprefix(name + ".")
        name = max(same, key=lambda c: traced.calls[c][-1].order)
    return name, ""


def _activations(traced: Trace) -> list[str]:
    """The ends of the layers of a plain chain (VGG), where ``feature_info`` points at activations."""
    features = [s.module for s in feature_stages(traced.model) if traced.called_once(s.module)]
    kinds = {(f.rpartition(".")[0], type(traced.model.get_submodule(f))) for f in features}
    chains = [
        [c for c in children(traced, parent) if type(traced.model.get_submodule(c)) is kind and traced.called_once(c)]
        for parent, kind in kinds
        if "Pool" not in kind.__name__
    ]
    return max(chains, key=len, default=[])


def _by_resolution(traced: Trace, names: list[str]) -> list[tuple[str, list[str]]]:
    """Blocks that no stages group: a new stage begins where the resolution of what they return changes."""
    groups: list[list[str]] = [names[:1]] if names else []
    for before, name in pairwise(names):
        small, large = sorted((area(traced, before), area(traced, name)))
        if large > 1.5 * small:  # class tokens that come or go are no change
            groups.append([])
        groups[-1].append(name)
    if all(len(group) == 1 for group in groups):
        return [(group[0], group) for group in groups]
    parent, _, leaf = names[0].rpartition(".") if names else ("", "", "")
    return [(parent or prefix_of(leaf) or leaf, group) for group in groups]


def _listed(stages: Sequence[tuple[str, list[str]]]) -> list[Block]:
    alone = len(stages) == 1
    return [Block(b, s, name, i, alone) for s, (name, stack) in enumerate(stages) for i, b in enumerate(stack)]
