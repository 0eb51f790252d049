"""How the auxiliary losses of a model reach its parameters: collected by the training loop, or attached."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

from torch import nn

from moezoo.errors import ConfigError
from moezoo.moe.aux_calls import MODES, PENALTY, AuxCalls, aux_calls
from moezoo.moe.checks import check_choice, check_positive


def set_aux_mode(model: nn.Module, mode: str) -> None:
    """Switch every MoE layer of ``model``. A model without any is left as it is.

    ``collected`` leaves it to the training loop to add :func:`moezoo.aux_loss` to its loss.

    ``attached`` needs no such loop: in training, each layer's output carries its auxiliary losses, and every backward
    pass through it adds their gradient. The gradient is the one of ``task + aux_loss(model)``, under activation
    checkpointing of either kind too, and any trainer trains right; ``aux_loss(model)`` is 0. It is attached once per
    call of a layer and divided by the number of layers, as the mean over them asks: so call this on the whole model,
    again when layers were added, and know that a layer called twice in a forward counts twice. What does not follow by
    itself is a factor on the loss, such as accumulation's or a gradient scaler's: see :func:`set_aux_scale`.

    Raises:
        ConfigError: ``mode`` is neither.
    """
    attached = check_choice("mode", mode, MODES) == "attached"
    layers = list(aux_calls(model))
    for calls in layers:
        calls.attached, calls.calls = attached, []
    divide_among(layers)


def divide_among(layers: Sequence[AuxCalls]) -> None:
    """Let the attached losses of ``layers`` be means over them, but for those that are to be summed."""
    averaged = [calls for calls in layers if calls.reduction == "mean"]
    counts = Counter(kind for calls in averaged for kind, weight in calls.weights.items() if weight)
    for calls in averaged:
        calls.layers = {**counts, PENALTY: len(averaged)}


def set_aux_scale(model: nn.Module, scale: float | Callable[[], float]) -> None:
    """Set the factor of the attached gradients, to be read by every forward pass from now on.

    An attached gradient does not see what the loss is multiplied with, so the same factor goes here: ``1 / n`` where
    the loss is divided by n accumulation steps, the scaler's value where a ``GradScaler`` multiplies it. A function is
    called in each layer's forward pass, so one call is enough for a whole training:
    ``set_aux_scale(model, lambda: scaler.get_scale() / n)``. Copies and pickles of the model keep a number but go back
    to 1 from a function.

    Args:
        model: Holds MoE layers in attached mode, or none at all.
        scale: A finite number of at least 0, or a function that returns it.

    Raises:
        ConfigError: ``scale`` is out of range, or a layer of the model is in collected mode, where the training loop
            scales the loss itself.
    """
    value = scale if callable(scale) else check_positive("scale", scale, zero=True)
    layers = list(aux_calls(model))
    if not all(calls.attached for calls in layers):
        raise ConfigError(
            f"scale={scale!r} has no effect: the auxiliary losses of this model are collected, so scale "
            'aux_loss(model) with the rest of the loss, or call set_aux_mode(model, "attached") first.'
        )
    for calls in layers:
        calls.scale = value
