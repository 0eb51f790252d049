"""Structured pruning: hidden units with the smallest weights are taken out of experts and MLPs."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.altered.units import HiddenUnits, hidden_units
from moezoo.compress.quantising import is_quantized
from moezoo.compress.size import size_of
from moezoo.errors import ConfigError
from moezoo.hub.state import unwrapped
from moezoo.measure import flops
from moezoo.moe.checks import check_choice
from moezoo.names import did_you_mean

PARTS = ("all", "experts")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PruningReport:
    """What pruning did."""

    hidden: dict[str, tuple[int, int]]
    """Hidden units before and after, by the path of the module that has them; of stacked experts, of each."""
    parameters: tuple[int, int]
    """Before and after; zeros count."""
    sparsity: float
    """The share of the parameters before that are gone or zero now."""
    flops: tuple[int, int] | None
    """Executed by the input that was given, before and after."""


def prune_hidden(
    model: nn.Module,
    ratio: float,
    *,
    parts: str = "all",
    layers: Sequence[str] | str | None = None,
    remove: bool = True,
    input: Any = None,
) -> PruningReport:
    """Take the hidden units with the smallest weights out of every expert and MLP, in place.

    A unit's size is the L2 norm of all weights into it and out of it (Li et al. 2017, "Pruning Filters for Efficient
    ConvNets", for units). Of stacked experts every one chooses its own and loses equally many. What each layer takes
    and gives keeps its width, so that nothing else changes. Parameters become new objects: make the optimiser
    afterwards. :func:`moezoo.save_pretrained` stores the model with its new widths.

    Args:
        model: Any module. Experts of MoE layers, and MLPs recognised by what they compute; routers, low-rank experts
            and layers that share a weight with another are left alone.
        ratio: The share of each layer's hidden units that goes, in (0, 1); one unit always stays.
        parts: ``"experts"`` leaves MLPs alone that are no experts, routed or shared.
        layers: Paths or fnmatch patterns of the modules; ``None`` means all.
        remove: ``False`` fills with zeros and keeps the shapes, as ``torch.nn.utils.prune.ln_structured`` with n=2 and
            dim=0 would, and their outgoing weights with them.
        input: What to count FLOPs with, before and after.

    Raises:
        ConfigError: The ratio is out of range, there is nothing to prune, or the model is quantised. Nothing is
            changed.
    """
    if isinstance(ratio, bool) or not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
        raise ConfigError(f"ratio={ratio!r} is not allowed: it must be a number between 0 and 1, for example 0.3.")
    check_choice("parts", parts, PARTS)
    model = unwrapped(model)
    if is_quantized(model):
        raise ConfigError("a quantised model cannot be pruned: prune first, then quantise.")
    chosen = _chosen(model, parts, layers)
    before, spent = size_of(model).weights, None if input is None else flops(model, input).executed
    plans = [(units, *_split(units, ratio)) for units in chosen]
    zeros = 0
    with torch.inference_mode(False):
        for units, kept, gone in plans:
            if remove:
                units.keep(kept)
            else:
                units.zero(gone)
                zeros += sum(_slices(cut.tensor, cut.axis, cut.halves, gone) for cut in units.cuts)
    after = size_of(model).weights
    report = PruningReport(
        hidden={units.key: (units.width, kept.shape[1]) for units, kept, _ in plans},
        parameters=(before, after),
        sparsity=(before - after + zeros) / before,
        flops=None if spent is None else (spent, flops(model, input).executed),
    )
    log.info("pruned %d layers of hidden units: %d parameters became %d", len(plans), before, after)
    return report


def prune_expert_networks(model: nn.Module, pruning_ratio: float = 0.1) -> PruningReport:
    """:func:`prune_hidden` of the experts alone; of a model without any, of every MLP."""
    model = unwrapped(model)
    parts = "experts" if any(units.in_expert for units in hidden_units(model).values()) else "all"
    return prune_hidden(model, pruning_ratio, parts=parts)


def _chosen(model: nn.Module, parts: str, layers: Sequence[str] | str | None) -> list[HiddenUnits]:
    found = {key: units for key, units in hidden_units(model).items() if units.width > 1}
    if parts == "experts":
        found = {key: units for key, units in found.items() if units.in_expert}
    if not found:
        raise ConfigError(f"{type(model).__name__} has no hidden units to prune in {parts!r}.")
    if layers is None:
        return list(found.values())
    chosen: dict[str, HiddenUnits] = {}
    for pattern in [layers] if isinstance(layers, str) else layers:
        matching = {key: units for key, units in found.items() if fnmatch.fnmatchcase(key, pattern)}
        if not matching:
            raise ConfigError(
                f"layers: {pattern!r} names nothing with hidden units.{did_you_mean(pattern, list(found))} "
                f"There are {', '.join(found)}."
            )
        chosen |= matching
    return list(chosen.values())


def _split(units: HiddenUnits, ratio: float) -> tuple[Tensor, Tensor]:
    """(E or 1, n) the units that stay, in their order, and those that go."""
    going = min(round(ratio * units.width), units.width - 1)
    order = units.norms().sort(dim=1, stable=True).indices
    return order[:, going:].sort(dim=1).values, order[:, :going].sort(dim=1).values


def _slices(tensor: Tensor, axis: int, halves: bool, gone: Tensor) -> int:
    """How many numbers of a tensor belong to the units that go."""
    return tensor.numel() // tensor.shape[axis] * gone.shape[1] * (2 if halves else 1)
