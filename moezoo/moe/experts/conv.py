"""Experts that are convolutions on maps: an inverted bottleneck each (Sandler et al. 2018, "MobileNetV2")."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError, InputError
from moezoo.moe.activations import get_activation
from moezoo.moe.checks import check_int, check_probability
from moezoo.moe.dispatch.plan import AssignmentPlan, Plan
from moezoo.moe.experts.base import Experts
from moezoo.moe.experts.by_expert import PATHS, linear_by_expert
from moezoo.moe.experts.stacked import init_linear_
from moezoo.moe.tracing import has_values


class ConvExperts(Experts):
    """``w_out act(conv(act(w_in x + b_in)))`` per expert, where ``conv`` is depthwise with zeros around the map.

    Every ``h * w`` tokens of a sample that follow each other are a map, row by row; an input of four axes
    or more is (..., h, w, D). A map goes to an expert as a whole, so the router must give all its tokens the same
    experts: ``per_image``, or one that gives every token all experts.

    Args:
        grid: (h, w) of the maps.
        kernel_size: Of the convolution, odd.
        activation: ``gelu``, ``gelu_tanh``, ``quick_gelu``, ``relu`` or ``silu``.
        dropout: On the hidden units before the last product, in training.

    Raises:
        ConfigError: An argument is out of range.
        InputError: At a call: the tokens are no whole maps, or (outside ``torch.compile`` and ``torch.export``) the
            router has split one.
    """

    paths = PATHS
    whole_maps = True

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        num_experts: int,
        *,
        grid: Sequence[int] | None = None,
        kernel_size: int = 3,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__(dim, hidden_dim, num_experts)
        if not isinstance(grid, (tuple, list)) or len(grid) != 2:
            raise ConfigError(f"grid={grid!r} is not allowed: it must be (height, width) of the maps in tokens.")
        self.grid = (check_int("grid", grid[0], low=1), check_int("grid", grid[1], low=1))
        self.kernel_size = check_int("kernel_size", kernel_size, low=1)
        if kernel_size % 2 == 0:
            raise ConfigError(
                f"kernel_size={kernel_size} is not allowed: it must be odd, so that maps keep their size."
            )
        self.act = get_activation(activation)
        self.dropout = check_probability("dropout", dropout)
        E, H = num_experts, hidden_dim
        self.w_in = nn.Parameter(torch.empty(E, H, dim))
        self.b_in = nn.Parameter(torch.empty(E, H))
        self.w_conv = nn.Parameter(torch.empty(E, H, kernel_size, kernel_size))
        self.b_conv = nn.Parameter(torch.empty(E, H))
        self.w_out = nn.Parameter(torch.empty(E, dim, H))
        self.b_out = nn.Parameter(torch.empty(E, dim))
        init_linear_(self.w_in, self.b_in)
        init_linear_(self.w_conv.data.flatten(2), self.b_conv)
        init_linear_(self.w_out, self.b_out)

    def check_input(self, shape: torch.Size) -> None:
        # The axes of the tokens alone: whatever is traced stays free in its batch.
        height, width = self.grid
        whole = tuple(shape[-3:-1]) == self.grid if len(shape) > 3 else shape[-2] % (height * width) == 0
        if not whole:
            raise InputError(
                f"experts on maps with grid={self.grid} take (..., {height}, {width}, {self.dim}), or samples of a "
                f"multiple of {height * width} tokens, got {tuple(shape)}"
            )

    def forward(self, x_ND: Tensor, plan: Plan) -> Tensor:
        self._check(plan, x_ND.shape[0])
        h_NH = self.act(linear_by_expert(x_ND, self.w_in, self.b_in, plan))
        h_NH = self.act(self._conv(h_NH, plan))
        h_NH = F.dropout(h_NH, self.dropout, self.training)
        return linear_by_expert(h_NH, self.w_out, self.b_out, plan)

    def _conv(self, h_NH: Tensor, plan: Plan) -> Tensor:
        height, width = self.grid
        h_MHhw = h_NH.reshape(-1, height, width, self.hidden_dim).permute(0, 3, 1, 2)
        if plan.path == "loop":
            sizes = [size // (height * width) for size in plan.sizes]
            each = zip(h_MHhw.split(sizes), self.w_conv.unbind(0), self.b_conv.unbind(0), strict=True)
            y_MHhw = torch.cat([self._conv_one(h, w, b) for h, w, b in each if len(h) or not len(h_MHhw)])
        else:
            y_MHhw = self._conv_static(h_MHhw, plan.expert_index[:: height * width])
        return y_MHhw.permute(0, 2, 3, 1).reshape(h_NH.shape)

    def _conv_one(self, h_MHhw: Tensor, weight_Hkk: Tensor, bias_H: Tensor) -> Tensor:
        return F.conv2d(h_MHhw, weight_Hkk[:, None], bias_H, padding=self.kernel_size // 2, groups=self.hidden_dim)

    def _conv_static(self, h_MHhw: Tensor, expert_M: Tensor) -> Tensor:
        """Each map with its own kernel, as a sum over the kernel's places: no shape depends on the routing."""
        k, (height, width) = self.kernel_size, self.grid
        padded = F.pad(h_MHhw, [k // 2] * 4)
        weight_MHkk = self.w_conv.to(padded.dtype).index_select(0, expert_M)
        y_MHhw = self.b_conv.to(padded.dtype).index_select(0, expert_M)[:, :, None, None]
        for i in range(k):
            for j in range(k):
                shifted = padded[:, :, i : i + height, j : j + width]
                y_MHhw = y_MHhw + shifted * weight_MHkk[:, :, i, j, None, None]
        return y_MHhw

    def _check(self, plan: Plan, num_rows: int) -> None:
        height, width = self.grid
        size = height * width
        whole = isinstance(plan, AssignmentPlan) and num_rows % size == 0
        if whole and not torch.compiler.is_compiling() and has_values(plan.expert_index):
            token_ML, expert_ML = (index.view(-1, size) for index in (plan.token_index, plan.expert_index))  # type: ignore[attr-defined]
            first_M1 = token_ML[:, :1]
            inside_L = torch.arange(size, device=token_ML.device)
            whole = bool(
                ((token_ML == first_M1 + inside_L) & (first_M1 % size == 0) & (expert_ML == expert_ML[:, :1])).all()
            )
        if not whole:
            raise InputError(
                f"the router has split a map of {height} x {width} tokens among experts, which take whole maps: use "
                "'per_image', or a router that gives every token all experts"
            )

    def flops(self, rows: Sequence[int]) -> int:
        return 2 * sum(rows) * (self.w_in[0].numel() + self.w_conv[0].numel() + self.w_out[0].numel())

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}, grid={self.grid}"
