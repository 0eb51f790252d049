"""Routers turn tokens into a :class:`~moezoo.moe.types.Routing`. One small file each, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from moezoo.errors import ConfigError
from moezoo.moe.routers.adaptive import AdaptiveRouter, step_routers
from moezoo.moe.routers.base import Router
from moezoo.moe.routers.softmax_topk import SoftmaxTopKRouter
from moezoo.names import did_you_mean
from moezoo.parts import Registry

C = TypeVar("C", bound=type[Router])

routers: Registry[type[Router]] = Registry("router")
routers.add("softmax_topk", SoftmaxTopKRouter)
for _name, _class in {
    "attentive": "AttentiveRouter",
    "bpr_topk": "BatchPrioritizedRouter",
    "cosine": "CosineRouter",
    "dense_softmax": "DenseSoftmaxRouter",
    "expert_choice": "ExpertChoiceRouter",
    "group_limited": "GroupLimitedRouter",
    "hash": "HashRouter",
    "modality": "ModalityRouter",
    "multihead": "MultiHeadRouter",
    "noisy_topk": "NoisyTopKRouter",
    "per_image": "PerImageRouter",
    "random": "RandomRouter",
    "relu": "ReLURouter",
    "shazeer_topk": "ShazeerTopKRouter",
    "sigmoid_bias": "SigmoidBiasRouter",
    "soft": "SoftRouter",
    "threshold": "ThresholdRouter",
    "top_p": "TopPRouter",
}.items():
    routers.add(_name, f"moezoo.moe.routers.{_name}:{_class}")


def register_router(name: str) -> Callable[[C], C]:
    """Class decorator: ``@register_router("mine") class Mine(Router)`` makes ``MoELayer(router="mine")`` work.

    The class is called as ``cls(dim, num_experts, top_k=…, normalize=…, capacity_factor=…, **router_args)``, with
    ``capacity_rule=…`` too where a layer is given one.
    """
    return routers.register(name)


def build_router(
    name: str,
    dim: int,
    num_experts: int,
    *,
    capacity_rule: str = "gshard",
    router_args: Mapping[str, Any] | None = None,
    **shared: Any,
) -> Router:
    """The router registered under ``name``; ``shared`` are the arguments of every router, ``router_args`` its own.

    Raises:
        UnknownModelError: No router has this name.
        ConfigError: ``router_args`` names an argument that this router does not have, or a value is out of range.
    """
    cls = routers.get(name)
    if capacity_rule != "gshard":  # the default is not handed on, for routers written without this argument
        shared["capacity_rule"] = capacity_rule
    if not isinstance(router_args, (Mapping, type(None))):
        raise ConfigError(f"router_args={router_args!r} is not allowed: it must map arguments of the router to values.")
    allowed = own_arguments(cls)
    for key in router_args or ():
        if key not in allowed:
            raise ConfigError(
                f"router_args: router {name!r} has no argument {key!r}.{did_you_mean(str(key), allowed)} "
                f"Allowed: {', '.join(allowed) or 'none'}."
            )
    return cls(dim, num_experts, **shared, **(router_args or {}))


def own_arguments(cls: type[Router]) -> list[str]:
    """The constructor arguments of a router class that :class:`Router` does not have, its base classes' included."""
    own: list[str] = []
    for base in cls.__mro__[: cls.__mro__.index(Router)]:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(base.__init__).parameters.values())  # type: ignore[misc]
            own += [p.name for p in parameters[1:] if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
            if all(p.kind != p.VAR_KEYWORD for p in parameters):
                break  # it hands nothing on that it does not name
    return [name for name in dict.fromkeys(own) if name not in inspect.signature(Router.__init__).parameters]


__all__ = [
    "AdaptiveRouter",
    "Router",
    "SoftmaxTopKRouter",
    "build_router",
    "register_router",
    "routers",
    "step_routers",
]
