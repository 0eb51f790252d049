"""Experts compute rows sorted by expert. Weights are stacked over experts where possible; found by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from moezoo.errors import ConfigError
from moezoo.moe.arguments import check_arguments, own_arguments
from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.shared import SharedExperts
from moezoo.moe.experts.sources import RowSource, Sources
from moezoo.moe.experts.stacked import StackedGLU, StackedMLP
from moezoo.parts import Registry

C = TypeVar("C", bound=type[Experts])

experts: Registry[type[Experts]] = Registry("experts")
experts.add("mlp", StackedMLP)
experts.add("glu", StackedGLU)
for _name, _class in {
    "conv": "ConvExperts",
    "lora": "LoRAExperts",
    "mixed": "MixedExperts",
    "modules": "ModuleExperts",
    "residual_mlp": "ResidualMLP",
}.items():
    experts.add(_name, f"moezoo.moe.experts.{_name}:{_class}")

_GIVEN = ("dim", "hidden_dim", "num_experts", "activation", "dropout")


def register_experts(name: str) -> Callable[[C], C]:
    """Class decorator: ``@register_experts("mine") class Mine(Experts)`` makes ``MoELayer(expert="mine")`` work.

    The class is called as ``cls(dim, hidden_dim, num_experts, activation=…, dropout=…, **expert_args)``.
    """
    return experts.register(name)


def build_experts(
    name: str,
    dim: int,
    hidden_dim: int,
    num_experts: int,
    *,
    out_dim: int | None = None,
    expert_args: Mapping[str, Any] | None = None,
    **shared: Any,
) -> Experts:
    """The experts registered under ``name``; ``shared`` are the arguments of every kind, ``expert_args`` its own.

    Raises:
        UnknownModelError: No experts have this name.
        ConfigError: ``expert_args`` names an argument that these experts do not have, or a value is out of range.
    """
    cls = experts.get(name)
    arguments = own_arguments(cls, _GIVEN)
    own = check_arguments("expert_args", f"experts {name!r}", expert_args, arguments)
    if out_dim is not None:
        if "out_dim" not in arguments and out_dim != dim:
            raise ConfigError(f"out_dim={out_dim!r} is not allowed with expert={name!r}, which gives width {dim}.")
        if own.get("out_dim", out_dim) != out_dim:
            raise ConfigError(f"out_dim={out_dim!r} is not allowed with expert_args out_dim={own['out_dim']!r}.")
        if "out_dim" in arguments:
            own["out_dim"] = out_dim
    return cls(dim, hidden_dim, num_experts, **shared, **own)


__all__ = [
    "Experts",
    "RowSource",
    "SharedExperts",
    "Sources",
    "StackedGLU",
    "StackedMLP",
    "build_experts",
    "experts",
    "register_experts",
]
