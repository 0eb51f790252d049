"""Routers turn tokens into a :class:`~moezoo.moe.types.Routing`. One small file each, found by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from moezoo.moe.routers.base import Router
from moezoo.moe.routers.softmax_topk import SoftmaxTopKRouter
from moezoo.parts import Registry

C = TypeVar("C", bound=type[Router])

routers: Registry[type[Router]] = Registry("router")
routers.add("softmax_topk", SoftmaxTopKRouter)


def register_router(name: str) -> Callable[[C], C]:
    """Class decorator: ``@register_router("mine") class Mine(Router)`` makes ``MoELayer(router="mine")`` work.

    The class is called as ``cls(dim, num_experts, top_k=…, normalize=…, capacity_factor=…, **router_args)``.
    """
    return routers.register(name)


def build_router(name: str, dim: int, num_experts: int, **args: Any) -> Router:
    """The router registered under ``name``."""
    return routers.get(name)(dim, num_experts, **args)


__all__ = ["Router", "SoftmaxTopKRouter", "build_router", "register_router", "routers"]
