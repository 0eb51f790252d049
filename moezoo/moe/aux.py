"""Auxiliary losses of a whole model: gathered per layer while it runs, summed by :func:`aux_loss` when asked.

Nothing global: every :class:`~moezoo.moe.MoELayer` keeps the loss terms of its own calls of the last forward. Where a
model was built by moezoo, two hooks on its root mark where a forward begins and ends, so that a layer called twice in
it counts twice; elsewhere a layer's last call counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from moezoo.errors import AuxLossError, ConfigError
from moezoo.moe.checks import check_choice, check_positive
from moezoo.moe.losses import AUX_LOSSES
from moezoo.moe.types import Routing

DEFAULT_WEIGHTS = {"load_balancing": 0.01, "router_z": 0.001}


def check_aux_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """``weights`` by kind of loss, checked; ``None`` gives the defaults."""
    if weights is None:
        return dict(DEFAULT_WEIGHTS)
    if not isinstance(weights, Mapping):
        raise ConfigError(f"aux_weights={weights!r} is not allowed: it must map {', '.join(AUX_LOSSES)} to weights.")
    return {
        check_choice("aux_weights", kind, AUX_LOSSES): check_positive(f"aux_weights[{kind!r}]", value, zero=True)
        for kind, value in weights.items()
    }


class AuxCalls:
    """The auxiliary losses of one layer's calls. Copies and pickles carry the weights, never the graph."""

    def __init__(self, weights: dict[str, float]):
        self.weights = weights
        self.calls: list[dict[str, Tensor]] = []
        self.keep = False
        """Append to the calls instead of replacing them: a root's forward or :func:`collect_aux` is open."""
        self.pinned = False
        """:func:`collect_aux` is open, so a new forward does not clear the calls."""
        self.graphless = False
        """One of the calls ran with gradients switched off."""

    def add(self, routing: Routing) -> None:
        """Compute and keep the losses of one call. A recomputation for checkpointing is not a call."""
        terms = {kind: AUX_LOSSES[kind](routing) for kind, weight in self.weights.items() if weight}
        # A recomputation must save the same tensors as the first run did, so it computes the terms and drops them.
        if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1:
            return
        earlier = self.calls if self.keep else []
        self.graphless = (bool(earlier) and self.graphless) or not torch.is_grad_enabled()
        self.calls = [*earlier, terms]

    def __getstate__(self) -> dict:
        return {"weights": self.weights, "calls": [], "keep": False, "pinned": False, "graphless": False}


def aux_loss(model: nn.Module) -> Tensor:
    """The auxiliary loss of the model's last forward: per kind the mean over all MoE calls, then the weighted sum.

    Reading it twice gives the same value. In evaluation mode it is 0, and so it is for a model without MoE layers.

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
    for calls in _aux_calls(model, training_only=True):
        if calls.calls and calls.graphless and torch.is_grad_enabled():
            raise AuxLossError(
                "the last forward kept no graph for the auxiliary loss. Activation checkpointing with "
                "use_reentrant=True does this: pass use_reentrant=False. A training forward under no_grad does it too: "
                "read aux_loss under no_grad as well."
            )
        for terms in calls.calls:
            for kind, value in terms.items():
                total.setdefault(kind, []).append(calls.weights[kind] * value)
    means = [torch.stack([v.to(zero.device) for v in values]).mean() for values in total.values()]
    return zero + torch.stack(means).sum() if means else zero


@contextmanager
def collect_aux(model: nn.Module) -> Iterator[AuxSum]:
    """Collect over several forwards of one step: ``with collect_aux(model) as aux: …; loss = task + aux()``.

    While it is open :func:`aux_loss` covers every forward since it was opened, not only the last.
    """
    layers = list(_aux_calls(model))
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
    for calls in _aux_calls(model):
        calls.calls = [{kind: value * 0 for kind, value in terms.items()} for terms in calls.calls]


def mark_root(model: nn.Module) -> None:
    """Let ``model``'s own forward delimit what :func:`aux_loss` covers. Idempotent."""
    if _begin_forward not in model._forward_pre_hooks.values():
        model.register_forward_pre_hook(_begin_forward)
        model.register_forward_hook(_end_forward)


def _begin_forward(model: nn.Module, args: tuple) -> None:
    if model.training:
        for calls in _aux_calls(model):
            if not calls.pinned:
                calls.calls, calls.keep = [], True


def _end_forward(model: nn.Module, args: tuple, output: object) -> None:
    if model.training:
        for calls in _aux_calls(model):
            calls.keep = calls.pinned


def _aux_calls(model: nn.Module, *, training_only: bool = False) -> Iterator[AuxCalls]:
    """Of every layer; ``training_only`` leaves out layers put in evaluation mode, whose calls are old ones."""
    for module in model.modules():
        calls = getattr(module, "aux", None)
        if isinstance(calls, AuxCalls) and (module.training or not training_only):
            yield calls
