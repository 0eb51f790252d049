"""One matrix product for all experts: the static-shape path for ``torch.compile``, ``torch.export`` and the GPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from moezoo.moe.dispatch.plan import Plan
from moezoo.moe.paths.grouped_mm import ALIGNED, aligned, grouped_mm
from moezoo.moe.paths.stack import MLPStack, compute_dtype


def run(x_ND: Tensor, plan: Plan, mlp: MLPStack) -> Tensor:
    """(N, D)."""
    h_NH = mlp.hidden(grouped_linear(x_ND, mlp.w_in, mlp.b_in, plan))
    return grouped_linear(h_NH, mlp.w_out, mlp.b_out, plan)


def grouped_linear(x_ND: Tensor, weight_EHD: Tensor, bias_EH: Tensor, plan: Plan) -> Tensor:
    """(N, H): row i times ``weight[plan.expert_index[i]]`` plus its bias.

    The product wants strides that are multiples of 16 bytes and knows no autocast: odd widths are padded, the dtype
    is cast.
    """
    dtype = compute_dtype(x_ND)
    x_ND, weight_EHD = x_ND.to(dtype), weight_EHD.to(dtype)
    _, H, D = weight_EHD.shape
    valid_N1 = torch.arange(x_ND.shape[0], device=x_ND.device)[:, None] < plan.counts.sum()
    step = ALIGNED // dtype.itemsize
    pad_d, pad_h = -D % step, -H % step
    if pad_d or pad_h:  # padding by nothing would copy
        weight_EHD = F.pad(weight_EHD, (0, pad_d, 0, pad_h))
    elif not aligned(weight_EHD):
        weight_EHD = weight_EHD.clone()
    # Rows behind the last offset (dropped ones) are uninitialised memory in the product and in its gradient:
    # masking both ends keeps them out of the output and out of the input's gradient.
    x_ND = torch.where(valid_N1, x_ND, 0.0)
    if pad_d:
        x_ND = F.pad(x_ND, (0, pad_d))
    y_NH = grouped_mm(x_ND, weight_EHD.transpose(-2, -1), plan.offsets)[:, :H]
    # The gradient of an index_select is added up in any order by a GPU, and in half precision.
    bias_NH = F.embedding(plan.expert_index, bias_EH.to(torch.promote_types(dtype, torch.float32)))
    return torch.where(valid_N1, (y_NH + bias_NH).to(dtype), 0.0)
