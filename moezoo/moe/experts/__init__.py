"""Experts compute rows sorted by expert. Weights are stacked over experts; found by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.shared import SharedExperts
from moezoo.moe.experts.stacked import StackedGLU, StackedMLP
from moezoo.parts import Registry

C = TypeVar("C", bound=type[Experts])

experts: Registry[type[Experts]] = Registry("experts")
experts.add("mlp", StackedMLP)
experts.add("glu", StackedGLU)


def register_experts(name: str) -> Callable[[C], C]:
    """Class decorator: ``@register_experts("mine") class Mine(Experts)`` makes ``MoELayer(expert="mine")`` work.

    The class is called as ``cls(dim, hidden_dim, num_experts, activation=…, dropout=…)``.
    """
    return experts.register(name)


def build_experts(name: str, dim: int, hidden_dim: int, num_experts: int, **args: Any) -> Experts:
    """The experts registered under ``name``."""
    return experts.get(name)(dim, hidden_dim, num_experts, **args)


__all__ = ["Experts", "SharedExperts", "StackedGLU", "StackedMLP", "build_experts", "experts", "register_experts"]
