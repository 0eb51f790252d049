"""FLOPs of a forward pass: executed under the routing that really happened, and by formula."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from moezoo.measure.calling import call, fit_input
from moezoo.measure.formulas import FORMULAS
from moezoo.moe.flops import FLOP_FORMULAS
from moezoo.moe.layer import MoELayer
from moezoo.moe.modes import evaluating
from moezoo.moe.record import RoutingRecord, record_routing


@dataclass(frozen=True)
class Flops:
    """FLOPs of one forward pass of the whole batch. A multiply-add is 2; products and convolutions count."""

    executed: int
    """Counted operator by operator while the model ran, so padding and work thrown away are in it."""
    analytic: int
    """Counted FLOPs of everything outside MoE layers plus :meth:`MoELayer.flops` of every routing."""
    by_module: Mapping[str, int]
    """Module path to the FLOPs executed inside it and its children; ``""`` is the model. No zeros."""

    @property
    def macs(self) -> int:
        """Multiply-adds: half of ``executed``."""
        return self.executed // 2


def flops(model: nn.Module, input: Any) -> Flops:
    """Run ``model`` once in evaluation mode and count.

    Args:
        model: Any module; afterwards each of its modules is in the mode it was in. A compiled model is
            counted as it was before ``torch.compile``. On the meta device (or with fake tensors) nothing is
            computed and routing has no values, so every assignment counts: the upper bound, and exact without
            ``capacity_factor``.
        input: A tensor, a tuple of positional arguments, or a mapping of keyword arguments. It is moved to
            the model's device and floating-point type.

    Returns:
        FLOPs for the whole batch, not per image.

    Raises:
        InputError: The input is on the meta device and the model is not.
        MoeZooError: A part with MoE layers is compiled on its own, where nothing can be seen.
    """
    return flops_and_routings(model, input)[0]


def flops_and_routings(model: nn.Module, input: Any) -> tuple[Flops, list[RoutingRecord]]:
    """:func:`flops`, and the routings of the one forward pass that was counted."""
    model = getattr(model, "_orig_mod", model)
    input = fit_input(model, input)
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, MoELayer)}
    with evaluating(model), _frozen(model), _no_fused_transformer(), record_routing(model) as records:
        counter = FlopCounterMode(display=False, custom_mapping={**FLOP_FORMULAS, **FORMULAS})
        with counter, _inclusive_counts(model, counter) as by_module:
            call(model, input)
    executed = counter.get_total_flops()
    inside = sum(by_module[name] for name in layers)
    formula = sum(layers[record.name].flops(record.routing) for record in records)
    by_module[""] = executed
    used = {name: count for name, count in by_module.items() if count}
    return Flops(executed=executed, analytic=executed - inside + formula, by_module=used), records


@contextmanager
def _inclusive_counts(model: nn.Module, counter: FlopCounterMode) -> Iterator[dict[str, int]]:
    """FLOPs per module path, by reading the counter before and after each call.

    FlopCounterMode's own tree ends a module before its forward hooks run, where injected layers do their
    work.
    """
    counts: dict[str, int] = defaultdict(int)
    with ExitStack() as stack:
        for name, module in model.named_modules():
            started: list[int] = []

            def begin(_module, _args, started=started):
                started.append(counter.get_total_flops())

            def end(_module, _args, _output, started=started, name=name):
                counts[name] += counter.get_total_flops() - started.pop()

            stack.callback(module.register_forward_pre_hook(begin, prepend=True).remove)
            stack.callback(module.register_forward_hook(end).remove)
        yield counts


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """torch's module tracker fails without gradients where a module is given a trainable parameter (SAM's masks)."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _no_fused_transformer() -> Iterator[None]:
    """PyTorch's fused inference path of ``nn.MultiheadAttention`` is one opaque operator: take the open
    one."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)
