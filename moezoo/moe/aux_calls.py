"""The auxiliary losses of one layer: kept for :func:`moezoo.aux_loss`, or attached to the layer's output."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.arguments import check_arguments
from moezoo.moe.attach import Switch, attach_loss
from moezoo.moe.checks import check_choice, check_positive
from moezoo.moe.losses import AUX_LOSSES, OUTPUT_LOSSES
from moezoo.moe.tracing import recomputing
from moezoo.moe.types import Routing

Outputs = Callable[[], Tensor]
MODES = ("collected", "attached")
REDUCTIONS = ("mean", "sum")
DEFAULT_WEIGHTS = {"load_balancing": 0.01, "router_z": 0.001}
KINDS = {**AUX_LOSSES, **OUTPUT_LOSSES}
PENALTY = "penalty"
"""The kind of what a router itself adds (``Routing.penalty``): always there, its coefficient included."""


def check_aux_weights(weights: Mapping[str, float] | None) -> dict[str, float]:
    """``weights`` by kind of loss, checked; ``None`` gives the defaults."""
    if weights is None:
        return dict(DEFAULT_WEIGHTS)
    if not isinstance(weights, Mapping):
        raise ConfigError(f"aux_weights={weights!r} is not allowed: it must map {', '.join(KINDS)} to weights.")
    return {
        check_choice("aux_weights", kind, KINDS): check_positive(f"aux_weights[{kind!r}]", value, zero=True)
        for kind, value in weights.items()
    }


def check_aux_args(
    args: Mapping[str, Mapping[str, Any]] | None, weights: Mapping[str, float], num_experts: int
) -> dict[str, dict[str, Any]]:
    """``args`` by kind of loss, each tried on a routing of one token, to be refused here and not in training."""
    if not isinstance(args, (Mapping, type(None))):
        raise ConfigError(f"aux_args={args!r} is not allowed: it must map kinds of loss to their arguments.")
    checked = {}
    for kind, own in (args or {}).items():
        loss = KINDS[check_choice("aux_args", kind, weights)]
        given = ("outputs_TED", "routing", "progress")
        allowed = [name for name in inspect.signature(loss).parameters if name not in given]
        checked[kind] = check_arguments(f"aux_args[{kind!r}]", f"loss {kind!r}", own, allowed)
        outputs = (torch.zeros(1, num_experts, 2),) if kind in OUTPUT_LOSSES else ()
        loss(*outputs, Routing.from_logits(torch.zeros(1, num_experts), 1), **checked[kind])
    return checked


class AuxCalls:
    """The auxiliary losses of one layer's calls. Copies and pickles carry the settings, never the graph."""

    def __init__(
        self,
        weights: dict[str, float],
        mode: str = "collected",
        reduction: str = "mean",
        args: Mapping[str, Mapping[str, Any]] | None = None,
    ):
        self.weights = weights
        self.args = dict(args or {})
        """By kind, the arguments of its loss beside the routing."""
        self.reduction = check_choice("layer_reduction", reduction, REDUCTIONS)
        """How the layers' losses of a kind become one: the mean over all calls, or the sum over the layers."""
        self.attached = check_choice("aux_loss", mode, MODES) == "attached"
        self.layers: dict[str, int] = {}
        """Attached: by how much each kind is divided, for the mean over the layers; 1 for a kind not named."""
        self.scale: float | Callable[[], float] = 1.0
        """Attached: the factor of the gradient."""
        self.progress = 1.0
        """How far training is, for losses with a schedule: see :func:`moezoo.moe.set_progress`."""
        self.switch = Switch()
        """Attached: what :func:`silence` turns off."""
        self.calls: list[dict[str, Tensor]] = []
        """The losses of each call by kind, before weighting; detached where they are attached."""
        self.report = False
        """Compute the kinds of weight zero too, for :func:`moezoo.moe.aux.aux_terms`."""
        self.keep = False
        """Append to the calls instead of replacing them: a root's forward or ``collect_aux`` is open."""
        self.pinned = False
        """``collect_aux`` is open, so a new forward does not clear the calls."""
        self.graphless = False
        """One of the calls ran with gradients switched off."""

    def weight(self, kind: str) -> float:
        """Of a kind of loss; what a router adds itself has its coefficient already."""
        return self.weights.get(kind, 1.0)

    def add(self, routing: Routing, outputs: Outputs | None = None) -> None:
        """Collected: compute and keep the losses of one call. A recomputation for checkpointing is not a call.

        Args:
            routing: Of the call.
            outputs: Gives (T, E, D) what each expert gave for each token, for losses that ask for it.
        """
        if not self.attached:
            self.add_terms(self._terms(routing, outputs))

    def add_terms(self, terms: dict[str, Tensor]) -> None:
        """Keep losses of one call that somebody else computed, by kind and before weighting."""
        # A recomputation must save the same tensors as the first run did, so it computes the terms and drops them.
        if recomputing():
            return
        earlier = self.calls if self.keep else []
        self.graphless = (bool(earlier) and self.graphless) or not torch.is_grad_enabled()
        self.calls = [*earlier, terms]

    def attach(self, output: Tensor, routing: Routing, outputs: Outputs | None = None) -> Tensor:
        """Attached: ``output`` unchanged, with the losses of its call riding on it. Nothing to do without gradients.

        A recomputation is treated as any call: what counts is the graph that is walked back, and that is one of them.
        """
        if not self.attached or not torch.is_grad_enabled():
            return output
        return self.attach_terms(output, self._terms(routing, outputs))

    def attach_terms(self, output: Tensor, losses: dict[str, Tensor]) -> Tensor:
        """:meth:`attach` of losses that somebody else computed, by kind and before weighting."""
        self.add_terms({kind: loss.detach() for kind, loss in losses.items()})
        terms = [self.weight(kind) * loss / self.layers.get(kind, 1) for kind, loss in losses.items()]
        if not terms:
            return output
        scale = self.scale() if callable(self.scale) else self.scale
        # A compiled graph could not look the switch up later.
        switch = None if torch.compiler.is_compiling() else self.switch
        return attach_loss(output, scale * torch.stack(terms).sum(), switch)

    def _terms(self, routing: Routing, outputs: Outputs | None) -> dict[str, Tensor]:
        asked = [kind for kind, weight in self.weights.items() if weight or self.report]
        terms = {kind: self._loss(kind, routing, outputs) for kind in asked}
        return terms if routing.penalty is None else {**terms, PENALTY: routing.penalty}

    def _loss(self, kind: str, routing: Routing, outputs: Outputs | None) -> Tensor:
        args = self.args.get(kind, {})
        if kind in OUTPUT_LOSSES:
            assert outputs is not None
            return OUTPUT_LOSSES[kind](outputs(), routing, **args)
        if args.get("anneal"):  # without a schedule a compiled layer need not look how far training is
            args = {**args, "progress": self.progress}
        return AUX_LOSSES[kind](routing, **args)

    def __getstate__(self) -> dict:
        fresh = AuxCalls(self.weights, reduction=self.reduction, args=self.args)
        fresh.progress = self.progress
        fresh.attached, fresh.layers, fresh.report = self.attached, self.layers, self.report
        fresh.scale = 1.0 if callable(self.scale) else self.scale
        return fresh.__dict__


def aux_calls(model: nn.Module, *, training_only: bool = False) -> Iterator[AuxCalls]:
    """Of every layer; ``training_only`` leaves out layers put in evaluation mode, whose calls are old ones."""
    for module in model.modules():
        calls = getattr(module, "aux", None)
        if isinstance(calls, AuxCalls) and (module.training or not training_only):
            yield calls
