"""Initial weights of the family."""

from __future__ import annotations

from timm.layers import trunc_normal_
from torch import nn

from moezoo.models.diff_moe.embed import ImageEmbed, TextEmbed
from moezoo.moe.experts import StackedMLP
from moezoo.moe.routers import Router


def init_weights(model: nn.Module, std: float) -> None:
    """Truncated normal weights of standard deviation ``std`` and zero biases everywhere but in routers.

    A router keeps its own initialisation: orthogonal keys tell the experts apart from the start.
    """
    routed = {id(part) for m in model.modules() if isinstance(m, Router) for part in m.modules()}
    for module in model.modules():
        if id(module) in routed:
            continue
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            trunc_normal_(module.weight, std=std)
            if getattr(module, "bias", None) is not None:
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        elif isinstance(module, StackedMLP):
            trunc_normal_(module.w_in, std=std)
            trunc_normal_(module.w_out, std=std)
        elif isinstance(module, (ImageEmbed, TextEmbed)):
            for parameter in (getattr(module, "cls_token", None), module.position, module.modality):
                if parameter is not None:
                    trunc_normal_(parameter, std=std)
