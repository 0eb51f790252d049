"""Parameters: all of them, those one token uses, those that learn."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from moezoo.altered.weights import int8_numbers
from moezoo.moe.layer import MoELayer


@dataclass(frozen=True)
class Parameters:
    """Numbers of scalar parameters, int8 ones included; a parameter shared by two modules counts once."""

    total: int
    active: int
    """What one token passes through: ``total`` without the routed experts it does not choose."""
    trainable: int
    """Those with ``requires_grad``."""


def parameters(model: nn.Module) -> Parameters:
    """Count ``model``'s parameters. Works on the meta device too."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    total = sum(n for n, _ in counts) + int8_numbers(model)
    inactive = sum(m.inactive_parameters() for m in model.modules() if isinstance(m, MoELayer))
    return Parameters(total=total, active=total - inactive, trainable=sum(n for n, learns in counts if learns))
