"""The activations an expert may use."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.checks import check_choice


def gelu_tanh(x: Tensor) -> Tensor:
    """GELU by its tanh approximation, as in SigLIP and the models that came from JAX."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """GELU by its sigmoid approximation, as in OpenAI's CLIP."""
    return x * (1.702 * x).sigmoid()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
}


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function called ``name``; raises :class:`ConfigError` with the nearest spelling."""
    return ACTIVATIONS[check_choice("activation", name, ACTIVATIONS)]
