"""The reference: plain autograd, one expert after the other. Every other path must give what this one gives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.stack import MLPStack


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D)."""
    return run_sizes(x_ND, plan.sizes, mlp)


def run_sizes(x_ND: Tensor, sizes: list[int], mlp: MLPStack) -> Tensor:
    """(N, D), where expert e computes the next ``sizes[e]`` rows."""
    # unbind, not indexing: its backward fills idle experts with zeros in one pass over the stack.
    weights = zip(*(p.unbind(0) for p in mlp.weights), strict=True)
    used = [(x, w) for x, w in zip(x_ND.split(sizes), weights, strict=True) if len(x) or not len(x_ND)]
    return torch.cat([F.linear(mlp.hidden(F.linear(x, w1, b1)), w2, b2) for x, (w1, b1, w2, b2) in used])


def gradients(
    inputs: tuple[Tensor, ...], wanted: tuple[bool, ...], dy_ND: Tensor, sizes: list[int], activation: str, gated: bool
) -> tuple[Tensor | None, ...]:
    """Of the rows, ``w_in``, ``b_in``, ``w_out`` and ``b_out``, so that they can be differentiated again.

    What the backward passes of other paths give where their own results could not be.
    """
    x_ND, w_in, b_in, w_out, b_out = inputs
    y_ND = run_sizes(x_ND, sizes, MLPStack(w_in, b_in, w_out, b_out, activation, gated))
    asked = [t for t, want in zip(inputs, wanted, strict=True) if want]
    found = iter(torch.autograd.grad(y_ND, asked, dy_ND, create_graph=True))
    return tuple(next(found) if want else None for want in wanted)
