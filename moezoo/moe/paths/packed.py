"""Inference on a CPU with reordered weights; oneDNN applies the activation while it writes the product."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths import sorted
from moezoo.moe.paths.hidden import hidden_into
from moezoo.moe.paths.packs import can_pack
from moezoo.moe.paths.sorted import used
from moezoo.moe.paths.stack import MLPStack, compute_dtype

_FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", ""), "silu": ("swish", "")}


def is_possible(x: Tensor, mlp: MLPStack) -> bool:
    """Whether packed weights are allowed and right here."""
    if mlp.packs is None or not mlp.packs.on or mlp.learns(x):
        return False
    return can_pack(x.device, compute_dtype(x), mlp.weights)


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D). Where it is not possible, as in training, it is the path ``sorted``."""
    if not is_possible(x_ND, mlp) or plan.plain:
        return sorted.run(x_ND, plan, mlp)
    assert mlp.packs is not None
    x_ND = x_ND.to(compute_dtype(x_ND))
    attr, algorithm = ("none", "") if mlp.gated else _FUSED.get(mlp.activation, ("none", ""))
    linear = torch.ops.mkldnn._linear_pointwise
    packed = mlp.packs.get(mlp.weights, x_ND.dtype)
    assert packed is not None
    out = [x_ND[:0]]
    for x, (w_in, b_in, w_out, b_out) in used(plan.sizes, x_ND.split(plan.sizes), packed):
        h = linear(x, w_in, b_in, attr, [], algorithm)
        if attr == "none":
            a = h.new_empty(len(h), mlp.w_out.shape[2])
            hidden_into(a, h, mlp.activation, mlp.gated)
            h = a
        out.append(linear(h, w_out, b_out, "none", [], ""))
    return torch.cat(out)
