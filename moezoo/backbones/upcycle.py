"""Upcycling: a backbone's MLPs become mixtures of experts that start from them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from moezoo.backbones.blocks import find_blocks, other_modules
from moezoo.backbones.chains import Place, find_mlps
from moezoo.backbones.groups import keep_in_host_groups
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.in_place import InPlaceOfMLP, accept_dense
from moezoo.backbones.inject import adapters_of, names_inside
from moezoo.backbones.layout import candidate_sites
from moezoo.backbones.recycled import Images, check_images, measure_activity
from moezoo.backbones.site import Block
from moezoo.backbones.trace import Trace, model_input_size, trace
from moezoo.backbones.upcycle_layer import UpcycleConfig, build_layer, why_not_preserved
from moezoo.backbones.upcycle_report import UpcycledSite, UpcycleReport, measure_gap
from moezoo.backbones.upcycled import UpcycledMLP
from moezoo.backbones.where import describe, select_blocks
from moezoo.config import decode
from moezoo.errors import ConfigError, InjectionError
from moezoo.moe.aux import mark_root
from moezoo.moe.recycling import Activity
from moezoo.moe.upcycling import ExpertInit

__all__ = ["UpcycleConfig", "UpcycleReport", "UpcycledSite", "measure_gap", "upcycle"]

log = logging.getLogger(__name__)
M = TypeVar("M", bound=InPlaceOfMLP)


@torch.inference_mode(False)  # experts are to be trained, wherever they were made
def upcycle(
    model: nn.Module,
    where: Any = "last_half",
    *,
    num_experts: int,
    top_k: int = 1,
    init: str = "copy",
    images: Images | None = None,
    input_size: tuple[int, int, int] | None = None,
    **config: Any,
) -> nn.Module:
    """Turn the MLPs of a vision model's blocks into mixtures of experts that start from them, in place.

    The dense model's checkpoints go on loading with ``strict=True``: their MLPs are spread over the experts, and the
    routers keep what they have. The model computes what it did before if a token's weights sum to one and its experts
    are copies; ``model.upcycle_report`` says whether, and :func:`measure_gap` measures it.

    Args:
        model: A timm model, a transformers model (its image encoder is meant), or your own.
        where: Which blocks; see :func:`moezoo.backbones.where.select_blocks`. A pattern may also name MLPs.
        num_experts: Experts of each MoE layer.
        top_k: Experts per token. With 1, weights are the router's probabilities and the model is not preserved, unless
            ``normalize=True``, with which the router learns from the auxiliary losses alone.
        init: ``copy``; ``noise`` (copies with Gaussian noise of ``noise_std``, 0.02 by default, times the weights'
            own deviation); ``partition``: the hidden units are dealt out (``partition=`` ``random`` by default,
            ``contiguous``, ``clustering`` or ``importance``) and scaled, so that with ``top_k=num_experts`` the model
            is preserved; or ``recycle``: every expert is a sub-network of hidden units that it draws (``sampling=``
            ``importance`` by default, ``graph``, ``uniform`` or ``random``), a third of them core experts of the full
            width and the others universal ones of a quarter (``num_core``, ``core_ratio``, ``universal_ratio``). Zhu et
            al. 2024, "MoE Jetpack", who let the router ``sphero`` mix them.
        images: (B, C, H, W), or batches of such, prepared as the model takes them: ``recycle`` finds out by them which
            hidden units are active; else it goes by their weights.
        input_size: (C, H, W) of an image, where the model does not say it itself.
        **config: Further fields of :class:`UpcycleConfig`: ``router``, ``normalize``, ``capacity_factor``, …

    Returns:
        The same object.

    Raises:
        InjectionError: A place does not exist or holds no MLP that can be upcycled, or the model was upcycled before.
            The model is left as it was.
        ConfigError: An argument is unknown or out of range.
    """
    given = {"num_experts": num_experts, "top_k": top_k, "init": init, **config}
    options = decode(UpcycleConfig, given, where="upcycle")
    start = ExpertInit(
        options.init,
        options.noise_std,
        options.partition,
        options.sampling,
        options.num_core,
        options.core_ratio,
        options.universal_ratio,
    )
    check_images(images, start)
    why = why_not_preserved(options, start)
    _check_upcyclable(model)
    path, part = vision_part(model)
    inside = names_inside(where, path)
    activity = {} if images is None else _activity(part, inside, input_size, images, start)
    found = replace_mlps(
        part, inside, input_size, lambda place: _make(part, place, options, start, activity.get(place.module))
    )
    hosts = {adapter: adapter.rpartition(".")[0] for adapter in adapters_of(part)}
    keep_in_host_groups(part, {**hosts, **{f"{place.module}.moe": block for place, block in found}})
    names = [f"{path}.{place.module}".removeprefix(".") for place, _ in found]
    report = UpcycleReport(tuple(UpcycledSite(name, start.method, not why, why) for name in names))
    for root in (part, model):
        mark_root(root)
        root.upcycle_report = report  # type: ignore[assignment]
    if options.top_k == 1 and options.normalize and options.num_experts > 1:
        log.info("upcycle: normalize=True with top_k=1 fixes every weight to 1: the router gets no task gradient.")
    if why:
        log.info("upcycle: the model does not compute what it did before: %s.", why)
    return model


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


def _check_upcyclable(model: Any) -> None:
    if not isinstance(model, nn.Module):
        raise InjectionError(f"model={model!r:.80} is not allowed: upcycle takes a torch.nn.Module.")
    if isinstance(model, (torch.jit.ScriptModule, torch._dynamo.OptimizedModule)):
        raise InjectionError(
            f"upcycle takes the model as it was before it was compiled or scripted, got {type(model).__name__}."
        )
    for name, module in model.named_modules():
        if isinstance(module, InPlaceOfMLP):
            raise InjectionError(f"the model is upcycled already ({name!r}); name every place in one call.")


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


def _activity(
    model: nn.Module, where: Any, input_size: tuple[int, int, int] | None, images: Images, start: ExpertInit
) -> dict[str, Activity]:
    found = find_places(model, trace(model, model_input_size(model, input_size)), where)
    return measure_activity(model, [place for place, _ in found], images, graph=start.sampling == "graph")


def _make(
    model: nn.Module, place: Place, options: UpcycleConfig, start: ExpertInit, activity: Activity | None
) -> UpcycledMLP:
    """What takes the MLP's place, on its device, in its dtype and mode."""
    dense = place.dense
    with weight_like(model, place).device:  # also where the caller has set another default device
        layer = build_layer(dense.dim, start.hidden_dim(dense.hidden_dim, options.num_experts), dense, options, start)
    made = UpcycledMLP(layer, dense, start, place.site, prepared_by(model, place))
    made.activity = activity
    settle(made, model, place)
    made.activity = None
    return made


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
