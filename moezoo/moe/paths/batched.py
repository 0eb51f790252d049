"""All experts in one batched product, each padded to the rows of the fullest: for many small, even loads."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.moe.dispatch.base import Plan
from moezoo.moe.paths.stack import MLPStack, compute_dtype


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D)."""
    x_ND = x_ND.to(compute_dtype(x_ND))
    w_in, b_in, w_out, b_out = mlp.cast(x_ND.dtype).weights
    (N, D), E, C = x_ND.shape, len(plan.sizes), max(plan.sizes)
    even = N == E * C
    if not even:
        # Row i lies at its expert's place plus its rank there.
        first_E = plan.counts.cumsum(0) - plan.counts
        place_N = torch.arange(N, device=x_ND.device) + (
            torch.arange(E, device=x_ND.device) * C - first_E
        ).index_select(0, plan.expert_index)
        x_ND = x_ND.new_zeros(E * C, D).index_copy(0, place_N, x_ND)
    h_ECH = mlp.hidden(torch.baddbmm(b_in[:, None], x_ND.view(E, C, D), w_in.transpose(1, 2)))
    y_ND = torch.baddbmm(b_out[:, None], h_ECH, w_out.transpose(1, 2)).view(E * C, D)
    return y_ND if even else y_ND.index_select(0, place_N)
