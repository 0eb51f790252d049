"""One expert after the other with shapes that tracing can follow, for exporters without a grouped product (ONNX)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.stack import MLPStack
from moezoo.moe.tracing import has_values


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D). Each expert looks its rows up, so that one without rows while tracing is in the graph too.

    Dropped rows, which stand last, are computed by no expert: they are zero.
    """
    out = []
    for row, w_in, b_in, w_out, b_out in zip(rows_by_expert(plan), *(p.unbind(0) for p in mlp.weights), strict=True):
        out.append(F.linear(mlp.hidden(F.linear(x_ND.index_select(0, row), w_in, b_in)), w_out, b_out))
    # Rows are sorted by expert, so the pieces are in order; tracing cannot know that they and the dropped rows are N.
    out.append(torch.zeros_like(x_ND, dtype=out[0].dtype))
    return torch.cat(out).index_select(0, torch.arange(x_ND.shape[0], device=x_ND.device))


def rows_by_expert(plan: Plan) -> list[Tensor]:
    """The rows of each expert, ascending; dropped ones are nobody's."""
    row_N = torch.arange(plan.expert_index.shape[0], device=plan.expert_index.device)
    if not (torch.compiler.is_compiling() or has_values(plan.expert_index)):
        return list(row_N.tensor_split(plan.counts.shape[0]))  # where they go is unknown: evenly
    expert_N = torch.where(row_N < plan.counts.sum(), plan.expert_index, -1)
    return [(expert_N == e).nonzero(as_tuple=True)[0] for e in range(plan.counts.shape[0])]


def without_dropped(x_ND: Tensor, plan: Plan) -> Tensor:
    """``x`` with zeros in the dropped rows that a static plan keeps, so that what they hold reaches no result.

    For experts that compute rows without looking up whose they are.
    """
    if not plan.static:
        return x_ND
    kept_N = torch.arange(x_ND.shape[0], device=x_ND.device) < plan.counts.sum()
    return torch.where(kept_N[:, None], x_ND, 0.0)
