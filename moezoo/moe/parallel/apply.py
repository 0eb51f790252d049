"""Spreading the experts of a model over processes, and bringing them together again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from moezoo.errors import ConfigError
from moezoo.moe.experts import experts as kinds
from moezoo.moe.experts.base import Experts
from moezoo.moe.layer import MoELayer
from moezoo.moe.parallel.experts import SpreadExperts, own_class, spread_class


def apply_expert_parallel(model: nn.Module, mesh: DeviceMesh) -> None:
    """Leave each process of ``mesh`` the same number of neighbouring experts of every MoE layer, in place.

    Experts' parameters become DTensors with ``Shard(0)``, under their old names. From then on every forward of a layer
    is collective, and so is its backward: all processes must call both equally often, on no tokens if need be. A
    gradient of an expert is the sum over the processes' losses; dividing it, and averaging that of everything else
    (routers, shared experts and the backbone stay whole everywhere), is left to data parallelism. Capacity, expert
    choice and slots go by the tokens of one process.

    Args:
        model: The same in every process. Its experts are of a kind whose parameters are stacked over the experts:
            ``mlp``, ``glu``, ``residual_mlp`` or ``lora``.
        mesh: One-dimensional, of the processes that share the experts.

    Raises:
        ConfigError: The model has no MoE layers, or one whose experts cannot be spread or do not divide evenly;
            nothing was changed.
    """
    if mesh.ndim != 1:
        raise ConfigError(f"mesh has {mesh.ndim} dimensions {mesh.mesh_dim_names}: expert parallelism takes one.")
    layers = {name: layer.experts for name, layer in model.named_modules() if isinstance(layer, MoELayer)}
    if not layers:
        raise ConfigError("expert parallelism needs a model with MoE layers, and this one has none.")
    for name, experts in layers.items():
        _check(name or "the model", experts, mesh.size())
    for experts in dict.fromkeys(layers.values()):
        _spread(experts, mesh)


def expert_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters, with their names, of which this process has only its own experts."""
    for name, module in model.named_modules():
        if isinstance(module, SpreadExperts):
            yield from module.named_parameters(name, recurse=False)


def gather_experts(model: nn.Module) -> None:
    """Undo :func:`apply_expert_parallel`: all experts in every process again, as plain parameters. Collective."""
    for module in model.modules():
        if not isinstance(module, SpreadExperts):
            continue
        for name, p in list(module._parameters.items()):
            if isinstance(p, DTensor):
                with torch.no_grad():
                    module._parameters[name] = nn.Parameter(p.full_tensor(), requires_grad=p.requires_grad)
        del module.mesh
        module.__class__ = own_class(module)


def _check(name: str, experts: Experts, size: int) -> None:
    if isinstance(experts, SpreadExperts):
        raise ConfigError(f"{name}: the experts are spread over processes already.")
    if not experts.stacked:
        able = ", ".join(repr(kind) for kind in kinds if kinds.get(kind).stacked)
        raise ConfigError(
            f"{name}: experts of type {type(experts).__name__} cannot be spread over processes. Allowed: {able}."
        )
    if experts.num_experts % size:
        fits = [n for n in range(1, experts.num_experts + 1) if experts.num_experts % n == 0]
        raise ConfigError(
            f"{name}: {experts.num_experts} experts cannot be spread evenly over {size} processes. "
            f"Allowed: {', '.join(map(str, fits))}."
        )


def _spread(experts: Experts, mesh: DeviceMesh) -> None:
    share = experts.num_experts // mesh.size()
    first = mesh.get_local_rank() * share
    for name, p in list(experts.named_parameters(recurse=False)):
        own = p.detach()[first : first + share].clone(memory_format=torch.contiguous_format)
        spread = DTensor.from_local(own, mesh, [Shard(0)], run_check=False)
        experts._parameters[name] = nn.Parameter(spread, requires_grad=p.requires_grad)
    experts.__class__ = spread_class(type(experts))
    assert isinstance(experts, SpreadExperts)
    experts.mesh = mesh
