"""Auxiliary losses of a whole model: gathered per layer while it runs, summed by :func:`aux_loss` when asked.

Nothing global: every :class:`~moezoo.moe.MoELayer` keeps the loss terms of its own calls of the last forward. Where a
model was built by moezoo, two hooks on its root mark where a forward begins and ends, so that a layer called twice in
it counts twice; elsewhere a layer's last call counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moezoo.errors import AuxLossError
from moezoo.moe.attach import Switch
from moezoo.moe.aux_calls import PENALTY, AuxCalls, aux_calls

__all__ = ["AuxCalls", "AuxSum", "aux_loss", "collect_aux", "mark_root", "silence"]


def aux_loss(model: nn.Module) -> Tensor:
    """The auxiliary loss of the model's last forward: per kind the mean over all MoE calls, then the weighted sum.

    A penalty of the router's own is one more kind, zero for the calls of routers that have none. Reading it twice gives
    the same value. In evaluation mode it is 0, and so it is for a model without MoE layers. It is 0 too where the
    losses are attached (:func:`moezoo.moe.set_aux_mode`): their gradient comes with the task's loss, and adding this
    one counts nothing twice.

    Returns:
        A float32 scalar on the model's device, to be added to the task's loss.

    Raises:
        AuxLossError: The last forward ran without gradients while they are wanted now, as it does under
            ``torch.utils.checkpoint(use_reentrant=True)``: the router would learn nothing from this loss.
    """
    zero = torch.zeros((), device=next((p.device for p in model.parameters()), None))
    if not model.training:
        return zero
    total: dict[str, list[Tensor]] = {}
    num_calls = 0
    for calls in aux_calls(model, training_only=True):
        if calls.calls and calls.graphless and torch.is_grad_enabled():
            raise AuxLossError(
                "the last forward kept no graph for the auxiliary loss. Activation checkpointing with "
                "use_reentrant=True does this: pass use_reentrant=False, or attach the losses to the layers' outputs, "
                'which is exact in both (MoELayer(aux_loss="attached"), moezoo.moe.set_aux_mode(model, "attached")). '
                "A training forward under no_grad does it too: read aux_loss under no_grad as well."
            )
        num_calls += len(calls.calls)
        for terms in calls.calls:
            for kind, value in terms.items():
                total.setdefault(kind, []).append(value.to(zero.device))
    means = [torch.stack(v).sum() / (num_calls if kind == PENALTY else len(v)) for kind, v in total.items()]
    return zero + torch.stack(means).sum() if means else zero


@contextmanager
def collect_aux(model: nn.Module) -> Iterator[AuxSum]:
    """Collect over several forwards of one step: ``with collect_aux(model) as aux: …; loss = task + aux()``.

    While it is open :func:`aux_loss` covers every forward since it was opened, not only the last.
    """
    layers = list(aux_calls(model))
    for calls in layers:
        calls.calls, calls.keep, calls.pinned = [], True, True
    try:
        yield AuxSum(model)
    finally:
        for calls in layers:
            calls.keep = calls.pinned = False


class AuxSum:
    """What :func:`collect_aux` yields: call it for the loss gathered so far."""

    def __init__(self, model: nn.Module):
        self._model = model

    def __call__(self) -> Tensor:
        return aux_loss(self._model)


def silence(model: nn.Module) -> None:
    """Make the losses kept of the last forward zero, with zero gradients: its tokens stood for no sample."""
    for calls in aux_calls(model):
        calls.calls = [{kind: value * 0 for kind, value in terms.items()} for terms in calls.calls]
        calls.switch.on = False


def mark_root(model: nn.Module) -> None:
    """Let ``model``'s own forward delimit what :func:`aux_loss` covers. Idempotent."""
    if _begin_forward not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_begin_forward)
        model.register_forward_hook(_end_forward)


def _begin_forward(model: nn.Module, args: tuple) -> None:
    if model.training:
        for calls in aux_calls(model):
            if not torch.compiler.is_compiling():
                calls.switch = Switch()
            if not calls.pinned:
                calls.calls, calls.keep = [], True


def _end_forward(model: nn.Module, args: tuple, output: object) -> None:
    if model.training:
        for calls in aux_calls(model):
            calls.keep = calls.pinned
