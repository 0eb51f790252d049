"""Auxiliary losses of a whole model: gathered per layer while it runs, summed by :func:`aux_loss` when asked.

Nothing global: every :class:`~moezoo.moe.MoELayer` keeps the loss terms of its own calls of the last forward. Where a
model was built by moezoo, two hooks on its root mark where a forward begins and ends, so that a layer called twice in
it counts twice; elsewhere a layer's last call counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moezoo.errors import AuxLossError
from moezoo.moe.attach import Switch
from moezoo.moe.aux_calls import PENALTY, AuxCalls, aux_calls

__all__ = ["AuxCalls", "AuxSum", "aux_loss", "aux_terms", "collect_aux", "mark_root", "silence"]


def aux_loss(model: nn.Module) -> Tensor:
    """The auxiliary loss of the model's last forward: per kind the mean over all MoE calls, then the weighted sum.

    Layers built with ``layer_reduction="sum"`` are summed instead, each by the mean over its calls. What a model adds
    of its own (Diff-MoE's alignment of image and text) is a kind too. A penalty of the router's own is one more kind,
    zero for the calls of routers that have none. Reading it twice gives the same value. In evaluation mode it is 0, and
    so it is for a model without MoE layers. It is 0 too where the losses are attached
    (:func:`moezoo.moe.set_aux_mode`): their gradient comes with the task's loss, and adding this one counts nothing
    twice.

    Returns:
        A float32 scalar on the model's device, to be added to the task's loss.

    Raises:
        AuxLossError: The last forward ran without gradients while they are wanted now, as it does under
            ``torch.utils.checkpoint(use_reentrant=True)``: the router would learn nothing from this loss.
    """
    zero = torch.zeros((), device=next((p.device for p in model.parameters()), None))
    if not model.training:
        return zero
    layers = [calls for calls in aux_calls(model, training_only=True) if not calls.attached]
    for calls in layers:
        if calls.calls and calls.graphless and torch.is_grad_enabled():
            raise AuxLossError(
                "the last forward kept no graph for the auxiliary loss. Activation checkpointing with "
                "use_reentrant=True does this: pass use_reentrant=False, or attach the losses to the layers' outputs, "
                'which is exact in both (MoELayer(aux_loss="attached"), moezoo.moe.set_aux_mode(model, "attached")). '
                "A training forward under no_grad does it too: read aux_loss under no_grad as well."
            )
    reduced = list(_reduced(layers, zero.device, weighted=True).values())
    return zero + torch.stack(reduced).sum() if reduced else zero


def aux_terms(model: nn.Module) -> dict[str, Tensor]:
    """What :func:`aux_loss` is made of: every kind of loss of the last forward, reduced over the layers, unweighted.

    Attached losses are among them, without a graph. Empty in evaluation mode.
    """
    if not model.training:
        return {}
    device = next((p.device for p in model.parameters()), None)
    return _reduced(list(aux_calls(model, training_only=True)), device, weighted=False)


def _reduced(layers: Sequence[AuxCalls], device: torch.device | None, *, weighted: bool) -> dict[str, Tensor]:
    """Each kind's mean over the calls, plus its sum over those layers that ask for the sum."""
    means: dict[str, list[Tensor]] = {}
    sums: dict[str, list[Tensor]] = {}
    num_calls = 0
    for calls in layers:
        num_calls += len(calls.calls) * (calls.reduction == "mean")
        for terms in calls.calls:
            for kind, value in terms.items():
                weight = calls.weight(kind) if weighted else 1.0
                if not weight:
                    continue
                if calls.reduction == "mean":
                    means.setdefault(kind, []).append(weight * value.to(device))
                else:
                    sums.setdefault(kind, []).append(weight / len(calls.calls) * value.to(device))
    reduced = {k: torch.stack(v).sum() / (num_calls if k == PENALTY else len(v)) for k, v in means.items()}
    for kind, values in sums.items():
        total = torch.stack(values).sum()
        reduced[kind] = reduced[kind] + total if kind in reduced else total
    return reduced


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
