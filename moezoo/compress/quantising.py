"""Weights as int8 numbers, of linear layers, convolutions, embeddings and stacked experts alike."""

from __future__ import annotations

import logging
from typing import TypeVar

from torch import Tensor, nn

from moezoo.altered.said import MODES
from moezoo.altered.weights import int8_weights, put_int8, quantisable, take_out_int8
from moezoo.errors import ConfigError, NonFiniteError
from moezoo.hub.state import shown, unwrapped
from moezoo.moe.checks import check_choice
from moezoo.moe.paths.packs import repack
from moezoo.moe.tracing import has_values

M = TypeVar("M", bound=nn.Module)

log = logging.getLogger(__name__)


def quantize(model: M, mode: str = "int8_dynamic") -> M:
    """Make the weights of ``model`` int8, in place, by one symmetric scale per output channel (of every expert) or row
    of a table.

    The model is for evaluation from then on: it is put into evaluation mode, nothing of it learns, and a forward pass
    in training mode is an error. :func:`moezoo.save_pretrained` stores it as it is, and ``create_model("local-dir:…",
    pretrained=True)`` loads it. Norms, biases and weights of less than 1,024 numbers stay as they are, and so do
    routers, which decide in float32 as ever; of an MLP gate the hidden layers are stored as int8.

    Args:
        model: Any module, before ``torch.compile``.
        mode: ``int8_dynamic``: on a CPU, linear layers and experts also round each row that they are given by a scale
            of its own, and compute in whole numbers. ``int8_weight_only``: all weights become float for the time of
            their product, which is as slow as the float model or slower, and nearer to it. Elsewhere than on a CPU, and
            for convolutions, the two are the same.

    Returns:
        The same object.

    Raises:
        ConfigError: The mode is unknown, the model is quantised already, or it has no weight to quantise.
        NonFiniteError: A weight holds NaN or infinity. Nothing is changed.
    """
    check_choice("mode", mode, MODES)
    inner = unwrapped(model)
    if is_quantized(inner):
        raise ConfigError("the model is quantised already; moezoo.compress.dequantize makes its weights float again.")
    places = quantisable(inner)
    if not places:
        raise ConfigError(f"{type(inner).__name__} has no linear layer, convolution or expert to quantise.")
    bad = [name for name, (owner, key, _) in places.items() if not _is_finite(owner.get_parameter(key))]
    if bad:
        raise NonFiniteError(f"quantize: NaN or infinity in {shown(bad)}")
    put_int8(places, mode)
    repack(inner)
    inner.requires_grad_(False)
    model.eval()
    log.info("%d weights are int8 (%s)", len(places), mode)
    return model


def dequantize(model: M) -> M:
    """Float weights again, of the rounded numbers, in place: for export, ``torch.compile``, or training on from there.

    Returns:
        The same object, in the mode it was in, its floating-point parameters trainable.
    """
    inner = unwrapped(model)
    if is_quantized(inner):
        take_out_int8(inner)
        for parameter in inner.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
    return model


def is_quantized(model: nn.Module) -> bool:
    """Whether a weight of the model is int8."""
    return bool(int8_weights(model))


def _is_finite(tensor: Tensor) -> bool:
    return not has_values(tensor) or bool(tensor.isfinite().all())
