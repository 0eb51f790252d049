"""The floors: one dense ``Linear, GELU, Linear`` over as many rows as the experts get, plain and prepacked."""

from __future__ import annotations

import torch
from moe_workloads import NotRun
from torch import Tensor, nn
from torch.nn import functional as F


class DenseFFN(nn.Module):
    """``Linear, GELU, Linear`` of given weights."""

    def __init__(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor):
        super().__init__()
        self.w_in, self.b_in, self.w_out, self.b_out = (nn.Parameter(w) for w in (w_in, b_in, w_out, b_out))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.gelu(F.linear(x, self.w_in, self.b_in)), self.w_out, self.b_out)


class PackedFFN(nn.Module):
    """The same for inference on a CPU: weights in oneDNN's blocked layout, the GELU inside the first product.

    Args:
        rows: Rows of a call that the layout is chosen for; any number works.

    Raises:
        NotRun: This build of torch, this type or this device has no such operator.
    """

    def __init__(self, w_in: Tensor, b_in: Tensor, w_out: Tensor, b_out: Tensor, rows: int):
        super().__init__()
        self.b_in, self.b_out = b_in.detach(), b_out.detach()
        try:
            self.w_in, self.w_out = (
                torch.ops.mkldnn._reorder_linear_weight(w.detach().contiguous(), rows) for w in (w_in, w_out)
            )
        except (AttributeError, NotImplementedError) as error:
            raise NotRun(f"not available: {str(error).splitlines()[0]:.80}") from error

    def forward(self, x: Tensor) -> Tensor:
        linear = torch.ops.mkldnn._linear_pointwise
        # "none" is the exact GELU.
        h = linear(x, self.w_in, self.b_in, "gelu", [], "none")
        return linear(h, self.w_out, self.b_out, "none", [], "")
