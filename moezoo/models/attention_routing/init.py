"""Initial weights of the family."""

from __future__ import annotations

from torch import nn

from moezoo.moe.routers import Router


def init_weights(model: nn.Module) -> None:
    """He's normal weights and zero biases: what comes through several layers of ReLU keeps its size.

    A router keeps its own initialisation.
    """
    routed = {id(part) for m in model.modules() if isinstance(m, Router) for part in m.modules()}
    for module in model.modules():
        if id(module) not in routed and isinstance(module, (nn.Linear, nn.Conv2d)):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
