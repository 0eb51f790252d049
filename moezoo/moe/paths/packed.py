"""Inference on a CPU with reordered weights; oneDNN applies the activation while it writes the product."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.hidden import hidden_into
from moezoo.moe.paths.sorted import used
from moezoo.moe.paths.stack import MLPStack, compute_dtype

_FUSED = {"gelu": ("gelu", "none"), "gelu_tanh": ("gelu", "tanh"), "relu": ("relu", ""), "silu": ("swish", "")}


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D), without gradients."""
    assert mlp.packs is not None
    x_ND = x_ND.to(compute_dtype(x_ND))
    attr, algorithm = ("none", "") if mlp.gated else _FUSED.get(mlp.activation, ("none", ""))
    linear = torch.ops.mkldnn._linear_pointwise
    packed = mlp.packs.get(mlp.weights, x_ND.dtype)
    out = [x_ND[:0]]
    for x, (w_in, b_in, w_out, b_out) in used(plan.sizes, x_ND.split(plan.sizes), packed):
        h = linear(x, w_in, b_in, attr, [], algorithm)
        if attr == "none":
            a = h.new_empty(len(h), mlp.w_out.shape[2])
            hidden_into(a, h, mlp.activation, mlp.gated)
            h = a
        out.append(linear(h, w_out, b_out, "none", [], ""))
    return torch.cat(out)
