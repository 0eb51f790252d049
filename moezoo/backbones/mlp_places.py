"""MLPs in the blocks of a model, and modules that are put in their place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import nn

from moezoo.backbones.blocks import find_blocks, other_modules
from moezoo.backbones.chains import Place, find_mlps
from moezoo.backbones.in_place import InPlaceOfMLP, accept_dense
from moezoo.backbones.inject import adapters_of
from moezoo.backbones.layout import candidate_sites
from moezoo.backbones.site import Block
from moezoo.backbones.trace import Trace, model_input_size, trace
from moezoo.backbones.where import describe, select_blocks
from moezoo.errors import ConfigError, InjectionError

M = TypeVar("M", bound=InPlaceOfMLP)


def replace_mlps(
    model: nn.Module, where: Any, input_size: tuple[int, int, int] | None, make: Callable[[Place], InPlaceOfMLP]
) -> list[tuple[Place, str]]:
    """Put what ``make`` makes in the place of every MLP at ``where``, so that dense checkpoints go on loading.

    Returns:
        The places, each with the block it is in.

    Raises:
        InjectionError: As of :func:`find_places`, or the model does not run each of them once. It is left as it was.
    """
    size = model_input_size(model, input_size)
    found = find_places(model, trace(model, size), where)
    _swap(model, [place for place, _ in found], [make(place) for place, _ in found], size)
    for place, _ in found:
        if place.module == place.anchor:
            accept_dense(model.get_submodule(place.module), "")
        else:
            accept_dense(model.get_submodule(place.anchor), place.module.removeprefix(f"{place.anchor}."))
    return found


def find_places(model: nn.Module, traced: Trace, where: Any) -> list[tuple[Place, str]]:
    """Every MLP at ``where`` with the block it is in.

    Raises:
        InjectionError: There is none, it runs more than once, or it shares its weights.
    """
    blocks = find_blocks(traced)
    others = other_modules(traced, blocks)
    skip = tuple(adapters_of(model))
    found: dict[str, tuple[Place, str]] = {}
    without: dict[str, dict[str, str]] = {}
    for i in select_blocks(blocks, where, others):
        block = [*blocks, *others][i]
        places, refused = find_mlps(model, traced, block.name, candidate_sites(traced, block, i), skip)
        found.update({place.module: (place, block.name) for place in places})
        if not places:
            without[block.name] = refused
    if without:
        raise InjectionError(_nothing_there(model, without, sorted({block for _, block in found.values()}), blocks))
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for place, _ in found.values():
        if not traced.called_once(place.module):
            times = len(traced.calls[place.module])
            raise InjectionError(f"{place.module!r} runs {times} times in a forward; an MoE needs one that runs once.")
        for key in place.dense.keys:
            if owners[id(model.get_parameter(f"{place.anchor}.{key}"))] > 1:
                raise InjectionError(f"{place.anchor}.{key} is shared with another layer, which upcycling would part.")
    return list(found.values())


def _nothing_there(model: nn.Module, without: dict[str, dict[str, str]], having: list[str], blocks: list[Block]) -> str:
    kinds = ", ".join(dict.fromkeys(type(model.get_submodule(name)).__name__ for name in without))
    reasons = [f"{name}: {why}" for refused in without.values() for name, why in refused.items()]
    told = f" {'; '.join(reasons[:3])}." if reasons else ""
    if having:
        told += f" There are MLPs in {', '.join(having)}: name those by where=."
    return (
        f"no MLP to upcycle in {', '.join(list(without)[:6])} ({kinds}).{told} The blocks are {describe(blocks)}. "
        "inject_moe adds experts behind any block."
    )


def weight_like(model: nn.Module, place: Place) -> nn.Parameter:
    """A weight of the MLP at ``place``.

    Raises:
        ConfigError: It is quantised.
    """
    like = model.get_submodule(place.anchor).get_parameter(place.dense.keys[0])
    if not like.is_floating_point():
        raise ConfigError(f"experts need floating-point weights, {place.anchor} has {like.dtype}.")
    return like


def prepared_by(model: nn.Module, place: Place) -> nn.Module | None:
    """The MLP's own norm of its input."""
    return model.get_submodule(place.anchor).get_submodule(place.dense.before) if place.dense.before else None


def settle(made: M, model: nn.Module, place: Place) -> M:
    """``made`` on the device of the MLP at ``place``, in its dtype and mode, with its weights."""
    anchor, like = model.get_submodule(place.anchor), weight_like(model, place)
    made.inside.to(device=like.device, dtype=like.dtype)
    made.load_dense({key: anchor.get_parameter(key).detach() for key in place.dense.keys})
    modules: tuple[nn.Module, ...] = (made, *made.inside.modules())
    for module in modules:
        module.training = model.get_submodule(place.module).training
    return made


def _swap(model: nn.Module, places: list[Place], made: Sequence[nn.Module], size: tuple[int, int, int]) -> None:
    """Put every module in its place, and back if the model then does not run each of them once."""
    new: dict[str, nn.Module] = {}
    for place, module in zip(places, made, strict=True):
        new[place.module] = module
        new.update({name: nn.Identity() for name in place.idle})
    old = {name: model.get_submodule(name) for name in new}
    try:
        for name, part in new.items():
            model.set_submodule(name, part)
        traced = trace(model, size)
        for place in places:
            if not traced.called_once(place.module):
                raise InjectionError(f"{place.module!r} cannot be upcycled: the model does not call it as a module.")
    except Exception:
        for name, part in old.items():
            model.set_submodule(name, part)
        raise
