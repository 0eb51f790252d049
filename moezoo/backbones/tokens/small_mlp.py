"""A narrow copy of an MLP that keeps some of its hidden units."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.mlps import DenseMLP
from moezoo.moe.clustering import balanced_clusters
from moezoo.moe.tracing import has_values
from moezoo.moe.upcycling import DenseWeights, unit_importance


def narrow_copy(mlp: nn.Module, dense: DenseMLP, hidden_dim: int) -> nn.Module:
    """The same kind of module with ``hidden_dim`` hidden units and weights that are yet to be set.

    Args:
        mlp: The MLP, whose layers are linear.
        dense: What it is.
        hidden_dim: At least 1.
    """
    wide = {name: mlp.get_submodule(name) for name in (*dense.inputs, dense.output)}
    narrow = copy.deepcopy(mlp, {id(layer): nn.Identity() for layer in wide.values()})  # what is replaced stays
    for name, layer in wide.items():
        weight: Any = layer.weight
        outputs, inputs = weight.shape
        if name == dense.output:
            inputs = hidden_dim
        else:  # twice as many of a GLU in one layer
            outputs = outputs // dense.hidden_dim * hidden_dim
        like = {"device": weight.device, "dtype": weight.dtype}
        narrow.set_submodule(name, nn.Linear(inputs, outputs, bias=layer.bias is not None, **like))
    return narrow.train(mlp.training)


@torch.no_grad()
def narrow_state(state: Mapping[str, Tensor], dense: DenseMLP, hidden_dim: int, rule: str) -> dict[str, Tensor]:
    """The weights of the narrow copy, from those of the MLP under the same keys.

    Its output is that of the kept units alone, the MLP's own bias included.

    Args:
        state: Of the MLP.
        dense: What it is.
        hidden_dim: Units to keep.
        rule: ``importance``, ``clustering``, ``contiguous`` or ``random``: see :func:`choose_units`.
    """
    unit_U = choose_units(dense.weights(state), hidden_dim, rule)
    kept = dict(state)
    for name in dense.inputs:
        for key in (f"{name}.weight", f"{name}.bias"):
            if key in kept:
                halves = kept[key].unflatten(0, (-1, dense.hidden_dim))  # of a GLU in one layer, gate and value
                kept[key] = halves[:, unit_U].flatten(0, 1)
    kept[f"{dense.output}.weight"] = kept[f"{dense.output}.weight"][:, unit_U]
    return {key: tensor.clone() for key, tensor in kept.items()}


def choose_units(dense: DenseWeights, number: int, rule: str) -> Tensor:
    """(number,) ascending indices of hidden units.

    Args:
        dense: The weights.
        number: How many.
        rule: ``importance``: those of the largest weights, the norm of what a unit reads by times that of what it
            writes. ``clustering``: units that read alike fire together (Zhang et al. 2022, "MoEfication"), so of as
            many clusters of equal size as divide both numbers the most important units each. ``contiguous``: the
            first. ``random``: by torch's generator.
    """
    H = dense.w_out.shape[1]
    importance_H = unit_importance(dense)
    if rule == "contiguous" or not has_values(importance_H):
        unit_U = torch.arange(number, device=importance_H.device)
    elif rule == "random":
        unit_U = torch.randperm(H, device="cpu")[:number].to(importance_H.device)
    elif rule == "clustering":
        member_CM = balanced_clusters(dense.w_in[:H], _clusters(number, H)).to(importance_H.device)
        order_CM = importance_H[member_CM].argsort(dim=1, descending=True, stable=True)
        unit_U = member_CM.gather(1, order_CM)[:, : number // len(member_CM)].flatten()
    else:
        unit_U = importance_H.argsort(descending=True, stable=True)[:number]
    return unit_U.sort().values


CLUSTERS = 32
"""The most clusters: balancing them takes time that grows with their square."""


def _clusters(number: int, hidden_dim: int) -> int:
    shared = math.gcd(number, hidden_dim)
    return next(c for c in range(min(CLUSTERS, shared), 0, -1) if shared % c == 0)
