"""One linear map per expert, on every path that experts with further parts than an MLP's have."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.grouped import grouped_linear
from moezoo.moe.paths.static import rows_by_expert

PATHS = ("loop", "grouped", "static")


def linear_by_expert(x_ND: Tensor, weight_EHD: Tensor, bias_EH: Tensor | None, plan: Plan) -> Tensor:
    """(N, H): row i times the weight of expert ``plan.expert_index[i]``, plus its bias."""
    if bias_EH is None:
        bias_EH = weight_EHD.new_zeros(weight_EHD.shape[:2])
    if plan.path == "grouped":
        return grouped_linear(x_ND, weight_EHD, bias_EH, plan)
    weights = zip(weight_EHD.unbind(0), bias_EH.unbind(0), strict=True)
    if plan.path == "loop":
        rows = zip(x_ND.split(plan.sizes), weights, strict=True)
        return torch.cat([F.linear(x, w, b) for x, (w, b) in rows if len(x) or not len(x_ND)])
    y_NH = x_ND.new_zeros(x_ND.shape[0], weight_EHD.shape[1])
    for row, (w, b) in zip(rows_by_expert(plan), weights, strict=True):
        y = F.linear(x_ND.index_select(0, row), w, b)
        y_NH = y_NH.to(y.dtype).index_add(0, row, y)
    return y_NH
