"""Reading off a model how it was pruned or quantised after it was built, and doing it again."""

from __future__ import annotations

import torch
from torch import nn

from moezoo.altered.said import MODES, Compression
from moezoo.altered.units import hidden_units, narrowed
from moezoo.altered.weights import int8_weights, put_int8, quantisable
from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice
from moezoo.moe.layer import MoELayer
from moezoo.moe.surgery.rows import NewExperts, check_layer, expert_stacks, install, router_rows
from moezoo.names import did_you_mean

LIMIT = 1024
"""Experts that a layer is given by a file at most."""


def compression_of(model: nn.Module) -> Compression | None:
    """What was done to ``model``; ``None`` for one that is as its configuration builds it."""
    weights, hidden = int8_weights(model), narrowed(model)
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}
    sources = {name: layer.experts.source_of for name, layer in layers.items() if layer.experts.source_of is not None}
    if not weights and not hidden and not sources:
        return None
    mode = next(iter({weight.mode for weight in weights.values()}), None)
    return Compression(hidden, sources, mode, tuple(weights))


def alter(model: nn.Module, note: Compression, place: str) -> nn.Module:
    """Give a model that was just built the shapes and types that ``note`` says; the values are to be loaded.

    Args:
        model: May be on the meta device.
        note: From a ``config.json``, not trusted.
        place: Begins each error.

    Raises:
        ConfigError: The model has no such units, sources or weights.
    """
    for path, source_of in note.sources.items():
        _put_experts(model, path, source_of, f"{place}: sources")
    if note.int8_weights:
        check_choice(f"{place}: int8_mode", note.int8_mode, MODES)
    units = hidden_units(model) if note.hidden else {}
    for path, width in note.hidden.items():
        if path not in units:
            raise ConfigError(f"{place}: hidden: no units can be taken out of {path!r}.{did_you_mean(path, [*units])}")
        chosen = units[path]
        if not 1 <= width <= chosen.width:
            raise ConfigError(f"{place}: hidden: {path!r} cannot have {width} units: it is built with {chosen.width}")
        chosen.keep(torch.arange(width, device="cpu").expand(chosen.experts or 1, width))
    places = quantisable(model) if note.int8_weights else {}
    for name in note.int8_weights:
        if name not in places:
            raise ConfigError(f"{place}: int8_weights: {name!r} cannot be int8.{did_you_mean(name, [*places])}")
    if note.int8_weights:
        put_int8({name: places[name] for name in note.int8_weights}, str(note.int8_mode))
        model.requires_grad_(False).eval()
    return model


def _put_experts(model: nn.Module, path: str, source_of: tuple[int, ...], place: str) -> None:
    layers = {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}
    if path not in layers:
        raise ConfigError(f"{place}: there is no MoE layer {path!r}.{did_you_mean(path, [*layers])}")
    layer = layers[path]
    if not source_of or len(source_of) > LIMIT or not all(0 <= source < layer.num_experts for source in source_of):
        raise ConfigError(f"{place}: {path!r} is built with {layer.num_experts} sources, none of them {source_of}")
    check_layer(path, layer)
    made_from = [[source] for source in source_of]
    rows = router_rows(layer, made_from, torch.ones(layer.num_experts, device="cpu"))
    install(layer, NewExperts(made_from, rows, expert_stacks(layer, made_from)), sources=True)
