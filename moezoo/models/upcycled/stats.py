"""``return_stats=True`` for models whose ``forward`` is timm's."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from moezoo.models.moe_vit.output import MoEViTOutput, router_stats
from moezoo.moe import record_routing

_OPEN = "moezoo_stats"
"""Attribute of a model while it runs to answer with statistics: the recording, and what it has so far."""


def answer_stats(model: nn.Module) -> nn.Module:
    """Let ``model(images, return_stats=True)`` answer a mapping of the logits and of what the routers did, as V-MoE and
    Soft MoE do; returns it."""
    model.register_forward_pre_hook(_start, with_kwargs=True)
    model.register_forward_hook(_answer, always_call=True)  # also where the forward raises, so that nothing stays open
    return model


def _start(model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]] | None:
    if "return_stats" not in kwargs:
        return None
    if kwargs["return_stats"]:
        stack = ExitStack()
        setattr(model, _OPEN, (stack, stack.enter_context(record_routing(model))))
    return args, {name: value for name, value in kwargs.items() if name != "return_stats"}


def _answer(model: nn.Module, args: tuple, output: Tensor | None) -> MoEViTOutput | None:
    stack, records = model.__dict__.pop(_OPEN, (None, ()))
    if stack is None:
        return None
    stack.close()
    return MoEViTOutput(logits=output, router_stats=router_stats(records))
