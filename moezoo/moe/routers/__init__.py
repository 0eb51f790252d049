"""Routers turn tokens into a :class:`~moezoo.moe.types.Routing`. One small file each, found by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from moezoo.errors import ConfigError
from moezoo.moe.arguments import check_arguments, own_arguments
from moezoo.moe.dispatch.capacity_rules import CapacityRule
from moezoo.moe.routers.adaptive import AdaptiveRouter, step_routers
from moezoo.moe.routers.base import Router
from moezoo.moe.routers.softmax_topk import SoftmaxTopKRouter
from moezoo.moe.routers.split import SplitRouter
from moezoo.parts import Registry

C = TypeVar("C", bound=type[Router])

routers: Registry[type[Router]] = Registry("router")
routers.add("softmax_topk", SoftmaxTopKRouter)
for _name, _class in {
    "attentive": "AttentiveRouter",
    "bpr_topk": "BatchPrioritizedRouter",
    "complexity": "ComplexityRouter",
    "cosine": "CosineRouter",
    "dense_softmax": "DenseSoftmaxRouter",
    "expert_choice": "ExpertChoiceRouter",
    "fixed_cells": "FixedCellsRouter",
    "group_limited": "GroupLimitedRouter",
    "hash": "HashRouter",
    "hierarchical": "HierarchicalRouter",
    "mlp_gate": "MLPGateRouter",
    "modality": "ModalityRouter",
    "multihead": "MultiHeadRouter",
    "noisy_topk": "NoisyTopKRouter",
    "per_image": "PerImageRouter",
    "random": "RandomRouter",
    "random_fraction": "RandomFractionRouter",
    "relu": "ReLURouter",
    "score_threshold": "ScoreThresholdRouter",
    "shazeer_topk": "ShazeerTopKRouter",
    "sigmoid_bias": "SigmoidBiasRouter",
    "soft": "SoftRouter",
    "sphero": "SpheroRouter",
    "threshold": "ThresholdRouter",
    "top_fraction": "TopFractionRouter",
    "top_p": "TopPRouter",
}.items():
    routers.add(_name, f"moezoo.moe.routers.{_name}:{_class}")

_GIVEN = tuple(inspect.signature(Router.__init__).parameters)


def register_router(name: str) -> Callable[[C], C]:
    """Class decorator: ``@register_router("mine") class Mine(Router)`` makes ``MoELayer(router="mine")`` work.

    The class is called as ``cls(dim, num_experts, top_k=…, normalize=…, capacity_factor=…, **router_args)``, with
    ``capacity_rule=…``, ``eval_capacity_factor=…`` and ``group_size=…`` too where a layer is given them.
    """
    return routers.register(name)


def build_router(
    name: str,
    dim: int,
    num_experts: int,
    *,
    capacity_rule: str | CapacityRule = "gshard",
    eval_capacity_factor: float | None = None,
    group_size: int | None = None,
    router_args: Mapping[str, Any] | None = None,
    **shared: Any,
) -> Router:
    """The router registered under ``name``; ``shared`` are the arguments of every router, ``router_args`` its own.

    Raises:
        UnknownModelError: No router has this name.
        ConfigError: This router does not have an argument that is given, or a value is out of range.
    """
    cls = routers.get(name)
    # Defaults are not handed on, for routers written without these arguments.
    given: dict[str, Any] = {"eval_capacity_factor": eval_capacity_factor, "group_size": group_size}
    given = {argument: value for argument, value in given.items() if value is not None}
    if capacity_rule != "gshard":
        given["capacity_rule"] = capacity_rule
    takes = own_arguments(cls, ())
    for argument, value in given.items():
        if argument not in takes:
            raise ConfigError(f"{argument}={value!r} is not allowed: router {name!r} has no such argument.")
    own = check_arguments("router_args", f"router {name!r}", router_args, own_arguments(cls, _GIVEN))
    return cls(dim, num_experts, **shared, **given, **own)


__all__ = [
    "AdaptiveRouter",
    "Router",
    "SoftmaxTopKRouter",
    "SplitRouter",
    "build_router",
    "register_router",
    "routers",
    "step_routers",
]
