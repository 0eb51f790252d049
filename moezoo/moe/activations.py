"""The activations an expert may use."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.checks import check_choice

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu}


def get_activation(name: str) -> Callable[[Tensor], Tensor]:
    """The function called ``name``; raises :class:`ConfigError` with the nearest spelling."""
    return ACTIVATIONS[check_choice("activation", name, ACTIVATIONS)]
