"""What removing, merging and adding share: find the layers, measure, change all of them or none, measure again."""

from __future__ import annotations

import fnmatch
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_choice
from moezoo.moe.layer import MoELayer
from moezoo.moe.modes import evaluating
from moezoo.moe.surgery.observe import Seen, batches_of, mixed, observe, relative_change, run, use_of
from moezoo.moe.surgery.report import LayerSurgery, SurgeryReport, label
from moezoo.moe.surgery.rows import NewExperts, check_layer, install, stack_names, undone_on_error
from moezoo.names import did_you_mean

USES = ("assignments", "weight")

log = logging.getLogger("moezoo.moe.surgery")


@torch.inference_mode(False)  # the new parameters are to be trained, wherever they were made
def operate(
    model: nn.Module,
    data: Any,
    layers: Sequence[str] | str | None,
    by: str,
    plan: Callable[[str, MoELayer, Seen, Tensor], NewExperts],
) -> SurgeryReport:
    """Replace the experts of the chosen layers by what ``plan(name, layer, seen, use_E)`` makes of each.

    Raises:
        ConfigError, InputError: Something is refused; the model is as it was.
    """
    check_choice("by", by, USES)
    chosen = find_layers(model, layers)
    for name, layer in chosen.items():
        check_layer(name, layer)
    _check_unshared(model, chosen)
    batches = batches_of(data)
    seen, before = observe(model, chosen, batches)
    use = {name: use_of(seen[name], by) for name in chosen}
    with torch.no_grad(), undone_on_error(chosen):
        new = {name: plan(name, layer, seen[name], use[name]) for name, layer in chosen.items()}
        for name, layer in chosen.items():
            try:
                install(layer, new[name], sources=seen[name].sources)
            except ConfigError as error:
                raise ConfigError(f"{label(name)}: {error}") from None
        changes = {name: _layer_change(layer, seen[name]) for name, layer in chosen.items()}
        change = relative_change(run(model, batches), before)
    sites = [
        LayerSurgery(
            name=name,
            before=len(use[name]),
            made_from=tuple(tuple(group) for group in new[name].made_from),
            use=tuple((use[name] / (use[name].sum() or 1.0)).tolist()),
            change=changes[name],
        )
        for name in chosen
    ]
    report = SurgeryReport(tuple(sites), change)
    if not report.preserved:
        log.info("surgery changed the model's output by %.2g (relative).", change)
    return report


def find_layers(model: nn.Module, layers: Sequence[str] | str | None) -> dict[str, MoELayer]:
    """The MoE layers of ``model`` by path: all, or those that a path or fnmatch pattern names.

    Raises:
        ConfigError: There is none.
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model={model!r:.80} is not allowed: it must be a torch.nn.Module.")
    found = {name: module for name, module in model.named_modules() if isinstance(module, MoELayer)}
    if not found:
        raise ConfigError(f"{type(model).__name__} has no MoELayer to operate on.")
    if layers is None:
        return found
    if not isinstance(layers, Iterable):
        raise ConfigError(
            f"layers={layers!r} is not allowed: it must be a path or pattern, or a list of them; None means all."
        )
    chosen: set[str] = set()
    for pattern in [layers] if isinstance(layers, str) else layers:
        matching = {name for name in found if isinstance(pattern, str) and fnmatch.fnmatchcase(name, pattern)}
        if not matching:
            raise ConfigError(
                f"layers: no MoE layer is called {pattern!r}.{did_you_mean(str(pattern), list(found))} "
                f"There are {', '.join(found)}."
            )
        chosen |= matching
    if not chosen:
        raise ConfigError("layers=[] names no MoE layer; None means all.")
    return {name: layer for name, layer in found.items() if name in chosen}


def ranked_in(use_E: Tensor, group: list[int]) -> list[int]:
    """The experts of ``group`` by falling use, ties to the lowest index."""
    return sorted(group, key=lambda expert: (-float(use_E[expert]), expert))


def groups_of(layer: MoELayer, argument: str, number: int) -> list[list[int]]:
    """The old experts of each group the router divides them into (mostly one), into which ``number`` must divide.

    Raises:
        ConfigError: It does not.
    """
    groups = layer.router.expert_groups
    if number % groups:
        raise ConfigError(
            f"{argument}={number} is not allowed: {type(layer.router).__name__} has {groups} groups of experts, which "
            "must stay equal in size."
        )
    size = layer.num_experts // groups
    return [list(range(i * size, (i + 1) * size)) for i in range(groups)]


def _check_unshared(model: nn.Module, layers: dict[str, MoELayer]) -> None:
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    for name, layer in layers.items():
        paths = model.named_modules(remove_duplicate=False)
        times = sum(module is layer for _, module in paths)
        for part, key in [(layer.router, key) for key in layer.router.expert_axes or ()] + [
            (layer.experts, key) for key in stack_names(layer.experts)
        ]:
            if owners[id(getattr(part, key))] > times:
                raise ConfigError(f"{label(name)} shares {key!r} with another layer, which surgery would part.")


def _layer_change(layer: MoELayer, seen: Seen) -> float:
    with evaluating(layer):
        after = [mixed(layer(*args, **kwargs)) for args, kwargs in seen.args]
    return relative_change(after, seen.outputs)
