"""Stacked weights as one module per expert and back, for tools that know modules: quantisation, LoRA, pruning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.mlp_expert import MLPExpert, ResidualMLPExpert
from moezoo.moe.experts.residual_mlp import ResidualMLP
from moezoo.moe.experts.stacked import StackedGLU, StackedMLP

_NAMES = {"w_in": "fc1.weight", "b_in": "fc1.bias", "w_out": "fc2.weight", "b_out": "fc2.bias"}
_NORM_NAMES = {f"norm{i}_{part}": f"norm{i}.{part}" for i in (1, 2) for part in ("weight", "bias")}
_PROJ_NAMES = {"w_res": "proj.weight", "b_res": "proj.bias"}
_STACKS: tuple[type[Experts], ...] = (StackedMLP, StackedGLU, ResidualMLP)


def unstack(experts: Experts) -> nn.ModuleList:
    """One :class:`MLPExpert` (or :class:`ResidualMLPExpert`) for each of the experts, with copies of its weights.

    Exact: :func:`stack` gives the same bits back. Types, devices, ``requires_grad`` and the mode are kept.

    Args:
        experts: Of kind ``mlp``, ``glu`` or ``residual_mlp``. ``MoELayer(expert="modules")`` runs the result.

    Raises:
        ConfigError: They are of another kind.
    """
    if not isinstance(experts, (StackedMLP, ResidualMLP)) or type(experts) not in _STACKS:
        raise ConfigError(
            f"experts={type(experts).__name__} cannot be unstacked. Allowed: "
            f"{', '.join(cls.__name__ for cls in _STACKS)}."
        )
    args: dict[str, Any] = {"activation": experts.activation, "dropout": experts.dropout}
    modules = []
    for e in range(experts.num_experts):
        with torch.device("meta"):
            module = (
                ResidualMLPExpert(
                    experts.dim,
                    experts.hidden_dim,
                    residual=experts.residual,
                    residual_weight=experts.residual_weight,
                    out_dim=experts.out_dim,
                    eps=experts.eps,
                    **args,
                )
                if isinstance(experts, ResidualMLP)
                else MLPExpert(experts.dim, experts.hidden_dim, gated=experts.gated, **args)
            )
        for stacked, name in _names(module).items():
            weight = getattr(experts, stacked)
            _set(module, name, weight.detach()[e].clone(), weight.requires_grad)
        modules.append(module)
    return nn.ModuleList(modules).train(experts.training)


def stack(modules: Iterable[nn.Module]) -> StackedMLP | ResidualMLP:
    """What :func:`unstack` was given, from its result: the weights of all modules in single tensors.

    Args:
        modules: Modules of one kind, size, activation and dropout.

    Raises:
        ConfigError: There are none, or they differ in more than their weights.
    """
    modules = list(modules)
    if not modules:
        raise ConfigError("modules must hold at least one module.")
    facts = [_facts(module) for module in modules]
    for e, fact in enumerate(facts):
        for name, value in fact.items():
            if facts[0].get(name) != value:
                raise ConfigError(
                    f"modules cannot be stacked: module {e} has {name} {value}, module 0 {facts[0].get(name)}."
                )
    first, E = modules[0], len(modules)
    assert isinstance(first, (MLPExpert, ResidualMLPExpert))
    args: dict[str, Any] = {"activation": first.act.name, "dropout": first.drop1.p}
    result: StackedMLP | ResidualMLP
    with torch.device("meta"):
        if isinstance(first, ResidualMLPExpert):
            result = ResidualMLP(
                first.dim,
                first.hidden_dim,
                E,
                residual=first.residual,
                residual_weight=first.residual_weight,
                out_dim=first.out_dim,
                eps=first.norm1.eps,
                **args,
            )
        else:
            result = (StackedGLU if first.gated else StackedMLP)(first.dim, first.hidden_dim, E, **args)
    for stacked, name in _names(first).items():
        weights = [module.get_parameter(name) for module in modules]
        _set(result, stacked, torch.stack([w.detach() for w in weights]), weights[0].requires_grad)
    return result.train(first.training)


def _names(module: nn.Module) -> dict[str, str]:
    """Of each stacked parameter, the module's own."""
    if not isinstance(module, ResidualMLPExpert):
        return _NAMES
    return {**_NAMES, **_NORM_NAMES, **(_PROJ_NAMES if isinstance(module.proj, nn.Linear) else {})}


def _set(module: nn.Module, name: str, value: Tensor, requires_grad: bool) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(module.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=requires_grad))


def _facts(module: nn.Module) -> dict[str, object]:
    """All that must be equal for modules to be stacked."""
    weights = dict(module.named_parameters())
    if type(module) not in (MLPExpert, ResidualMLPExpert) or set(weights) != set(_names(module).values()):
        raise ConfigError(
            f"modules cannot be stacked: a {type(module).__name__} with parameters {sorted(weights)} is none of those "
            "that unstack gives."
        )
    assert isinstance(module, (MLPExpert, ResidualMLPExpert))
    facts: dict[str, object] = {
        "type": type(module).__name__,
        "activation": module.act.name,
        "dropout": module.drop1.p,
        "mode": "train" if module.training else "eval",
    }
    if isinstance(module, ResidualMLPExpert):
        if (module.norm1.eps, module.drop1.p) != (module.norm2.eps, module.drop2.p):
            raise ConfigError("modules cannot be stacked: one has two norms of unequal eps, or two unequal dropouts.")
        facts |= {"residual": module.residual, "residual_weight": module.residual_weight, "eps": module.norm1.eps}
    else:
        facts["gated"] = module.gated
    for name, w in weights.items():
        facts[name] = f"{tuple(w.shape)} {w.dtype} {w.device} requires_grad={w.requires_grad}"
    return facts
