"""One expert after the other with shapes that tracing can follow, for exporters without a grouped product (ONNX)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.stack import MLPStack


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D). Each expert looks its rows up, so that one without rows while tracing is in the graph too.

    Dropped rows, which stand last, are computed by no expert: they are zero.
    """
    row_N = torch.arange(x_ND.shape[0], device=x_ND.device)
    expert_N = torch.where(row_N < plan.counts.sum(), plan.expert_index, -1)
    out = []
    for e, (w_in, b_in, w_out, b_out) in enumerate(zip(*(p.unbind(0) for p in mlp.weights), strict=True)):
        (row,) = (expert_N == e).nonzero(as_tuple=True)
        out.append(F.linear(mlp.hidden(F.linear(x_ND.index_select(0, row), w_in, b_in)), w_out, b_out))
    # Rows are sorted by expert, so the pieces are in order; tracing cannot know that they and the dropped rows are N.
    out.append(torch.zeros_like(x_ND, dtype=out[0].dtype))
    return torch.cat(out).index_select(0, row_N)
