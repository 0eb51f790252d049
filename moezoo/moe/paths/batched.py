"""All experts in one batched product, each padded to the rows of the fullest: for many small, even loads."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.dispatch.base import Plan
from moezoo.moe.paths.stack import MLPStack, compute_dtype
from moezoo.moe.tracing import flattened


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D)."""
    x_ND = x_ND.to(compute_dtype(x_ND))
    w_in, b_in, w_out, b_out = mlp.cast(x_ND.dtype).weights
    x_ECD, place_N = padded(x_ND, plan)
    h_ECH = mlp.hidden(torch.baddbmm(b_in[:, None], x_ECD, w_in.transpose(1, 2)))
    return unpadded(torch.baddbmm(b_out[:, None], h_ECH, w_out.transpose(1, 2)), place_N)


def padded(x_ND: Tensor, plan: Plan) -> tuple[Tensor, Tensor | None]:
    """(E, C, D) each expert's rows, zeros after them, and the (N,) places of the rows; ``None`` where all are even."""
    (N, D), E, C = x_ND.shape, len(plan.sizes), max(plan.sizes)
    if N == E * C:
        return x_ND.reshape(E, C, D), None
    # Row i lies at its expert's place plus its rank there.
    first_E = plan.counts.cumsum(0) - plan.counts
    place_N = torch.arange(N, device=x_ND.device) + (torch.arange(E, device=x_ND.device) * C - first_E).index_select(
        0, plan.expert_index
    )
    return x_ND.new_zeros(E * C, D).index_copy(0, place_N, x_ND).view(E, C, D), place_N


def unpadded(y_ECD: Tensor, place_N: Tensor | None) -> Tensor:
    """(N, D): the rows that :func:`padded` had put in their places."""
    y_ND = flattened(y_ECD)
    return y_ND if place_N is None else y_ND.index_select(0, place_N)
