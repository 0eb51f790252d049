"""Upcycling: a backbone's MLPs become mixtures of experts that start from them."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from moezoo.backbones.chains import Place
from moezoo.backbones.groups import keep_in_host_groups
from moezoo.backbones.hf.encoder import vision_part
from moezoo.backbones.in_place import InPlaceOfMLP
from moezoo.backbones.inject import adapters_of, names_inside
from moezoo.backbones.mlp_places import find_places, prepared_by, replace_mlps, settle, weight_like
from moezoo.backbones.recycled import Images, check_images, measure_activity
from moezoo.backbones.trace import model_input_size, trace
from moezoo.backbones.upcycle_layer import UpcycleConfig, build_layer, why_not_preserved
from moezoo.backbones.upcycle_report import UpcycledSite, UpcycleReport, measure_gap
from moezoo.backbones.upcycled import UpcycledMLP
from moezoo.config import decode
from moezoo.errors import InjectionError
from moezoo.moe.aux import mark_root
from moezoo.moe.recycling import Activity
from moezoo.moe.upcycling import ExpertInit

__all__ = ["UpcycleConfig", "UpcycleReport", "UpcycledSite", "measure_gap", "upcycle"]

log = logging.getLogger(__name__)


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
