"""The stages of a backbone: the modules that timm's ``feature_info`` points at, and the blocks inside each."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from moezoo.backbones.stacks import (
    CONTAINERS,
    children,
    is_composite,
    is_stem,
    matrices,
    prefix_of,
    runs,
    siblings,
    size,
    stacks_in,
    start,
    substantial,
)
from moezoo.backbones.trace import Trace

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


def units_of(traced: Trace) -> list[str]:
    """The modules that ``feature_info`` points at or into, and their siblings (``blocks.3`` between 2 and 4)."""
    units: set[str] = set()
    for stage in feature_stages(traced.model):
        unit = _unit_of(traced, stage.module)
        units.update(siblings(traced, unit) if unit else ())
    return sorted(substantial(traced.model, list(units)), key=lambda name: start(traced, name))


def _unit_of(traced: Trace, feature: str) -> str | None:
    """A feature module that is more than a layer, or the numbered module around it (``block12`` of its first ReLU)."""
    modules = dict(traced.model.named_modules())
    name = feature
    while name:
        numbered = name == feature or prefix_of(name.rpartition(".")[2]) is not None
        fits = name in modules and numbered and not is_stem(name)
        if fits and runs(traced, name) and is_composite(traced.model, name):
            return name
        name = name.rpartition(".")[0]
    return None


def passed_over(traced: Trace, units: list[str], family: list[str]) -> bool:
    """Whether most of the model is a family of modules that runs between the units (NASNet's cells), not after them."""
    if not units or not family:
        return not units
    larger = size(traced.model, family) > size(traced.model, units)
    return larger and start(traced, family[0]) < start(traced, units[-1])


def stages_of(traced: Trace, units: list[str]) -> list[tuple[str, list[str]]]:
    """Each unit with the blocks inside it, or with itself."""
    inside = {unit: _inside(traced, unit) for unit in units}
    # Either all modules of one class are stages or none is: the last block of an Xception looks like a stage.
    whole = {_kind(traced, unit) for unit, blocks in inside.items() if not blocks}
    stages = [(unit, inside[unit] if _kind(traced, unit) not in whole else [unit]) for unit in units]
    # What stands before the first stage and is none is the stem.
    first = next((i for i, (unit, blocks) in enumerate(stages) if blocks != [unit]), 0)
    return stages[first:]


def _kind(traced: Trace, name: str) -> type | str:
    module = traced.model.get_submodule(name)
    return name if isinstance(module, CONTAINERS) else type(module)


def _inside(traced: Trace, unit: str) -> list[str]:
    """The blocks that a unit consists of; empty where it is a block itself."""
    entered = {id(t) for call in traced.calls.get(unit, ()) for t in call.inputs}
    returned = {id(t) for t in traced.outputs(unit)}
    for holder in [unit, *children(traced, unit)]:
        for stack in stacks_in(traced, holder):
            blocks = substantial(traced.model, stack)
            if not blocks or any(entered & _first_input(traced, name) for name in blocks[1:]):
                continue  # branches side by side
            if _layers_among(traced, stack, blocks):
                continue  # the parts of one block (ConvMixer, Xception), not blocks in a row
            if matrices(traced.model, blocks[0]) < 2 and not isinstance(traced.model.get_submodule(holder), CONTAINERS):
                continue  # the convolutions of one block (SelecSLS)
            tail = {id(t) for t in traced.outputs(stack[-1])}
            if returned & tail or unit not in traced.calls or holder.rpartition(".")[2] in _BLOCK_LISTS:
                return blocks
    return []


def _layers_among(traced: Trace, stack: list[str], blocks: list[str]) -> bool:
    """Whether norms or convolutions stand between the blocks of a stack, or a convolution behind the last."""
    first, last = stack.index(blocks[0]), stack.index(blocks[-1])
    layers = [name for name in stack if not is_composite(traced.model, name)]
    between = [name for name in layers if first < stack.index(name) < last]
    behind = [name for name in layers if stack.index(name) > last]
    return size(traced.model, between) > 0 or any(matrices(traced.model, name) for name in behind)


def _first_input(traced: Trace, name: str) -> set[int]:
    return {id(t) for t in traced.calls[name][0].inputs[:1]}
