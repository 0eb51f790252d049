"""One expert as a module of its own, with the names of timm's MLPs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from moezoo.errors import ConfigError
from moezoo.moe.activations import get_activation
from moezoo.moe.checks import check_choice, check_int, check_positive, check_probability
from moezoo.moe.experts.stacked import init_linear_

RESIDUALS = ("linear", "identity")
"""What a residual expert adds: a linear map of x, or x."""


def check_residual(residual: str, in_dim: int, out_dim: int) -> str:
    """``residual``, unless x has another width than what it is to be added to."""
    if residual == "identity" and in_dim != out_dim:
        raise ConfigError(f"residual='identity' is not allowed where width {in_dim} becomes {out_dim}: take 'linear'.")
    return residual


class Activation(nn.Module):
    """The function called ``name`` as a module."""

    def __init__(self, name: str):
        super().__init__()
        self.name, self.function = name, get_activation(name)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)

    def extra_repr(self) -> str:
        return self.name


class MLPExpert(nn.Module):
    """``fc2 act(fc1 x)``; ``gated``: ``fc2 (act(g) * u)`` with ``g, u = fc1 x`` split in halves.

    Of a gated one ``fc1`` has the gate's rows first, as timm's ``SwiGLUPacked``.
    """

    def __init__(
        self, dim: int, hidden_dim: int, *, activation: str = "gelu", dropout: float = 0.0, gated: bool = False
    ):
        super().__init__()
        self.dim, self.hidden_dim, self.gated = dim, hidden_dim, gated
        self.fc1 = nn.Linear(dim, 2 * hidden_dim if gated else hidden_dim)
        self.act = Activation(activation)
        self.drop1 = nn.Dropout(check_probability("dropout", dropout))
        self.fc2 = nn.Linear(hidden_dim, dim)
        init_linear_(self.fc1.weight, self.fc1.bias)
        init_linear_(self.fc2.weight, self.fc2.bias)

    def forward(self, x_ND: Tensor) -> Tensor:
        h = self.fc1(x_ND)
        if self.gated:
            gate, up = h.chunk(2, dim=-1)
            h = self.act(gate) * up
        else:
            h = self.act(h)
        return self.fc2(self.drop1(h))

    def flops(self, rows: int) -> int:
        """FLOPs of ``rows`` rows."""
        return 2 * rows * (self.fc1.weight.numel() + self.fc2.weight.numel())


class ResidualMLPExpert(nn.Module):
    """``drop2 act(norm2(fc2 drop1 act(norm1(fc1 x)))) + r proj x``; ``residual="identity"``: ``proj x`` is x.

    Args:
        dim: Width of x.
        hidden_dim: Width between.
        residual: ``linear`` or ``identity``.
        residual_weight: r; with 0 there is no ``proj``.
        out_dim: Width of the result; ``None`` means ``dim``.
        eps, activation, dropout: As of :class:`~moezoo.moe.experts.residual_mlp.ResidualMLP`.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int,
        *,
        residual: str = "linear",
        residual_weight: float = 1.0,
        out_dim: int | None = None,
        eps: float = 1e-5,
        activation: str = "gelu",
        dropout: float = 0.0,
    ):
        super().__init__()
        self.dim, self.hidden_dim = dim, hidden_dim
        self.out_dim = dim if out_dim is None else check_int("out_dim", out_dim, low=1)
        self.residual = check_residual(check_choice("residual", residual, RESIDUALS), dim, self.out_dim)
        self.residual_weight = check_positive("residual_weight", residual_weight, zero=True)
        check_positive("eps", eps)
        check_probability("dropout", dropout)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.norm1 = nn.LayerNorm(hidden_dim, eps=eps)
        self.act = Activation(activation)
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, self.out_dim)
        self.norm2 = nn.LayerNorm(self.out_dim, eps=eps)
        self.drop2 = nn.Dropout(dropout)
        learned = residual == "linear" and self.residual_weight
        self.proj = nn.Linear(dim, self.out_dim) if learned else nn.Identity()
        for linear in (self.fc1, self.fc2, self.proj):
            if isinstance(linear, nn.Linear):
                init_linear_(linear.weight, linear.bias)

    def forward(self, x_ND: Tensor) -> Tensor:
        h_NH = self.drop1(self.act(self.norm1(self.fc1(x_ND))))
        y_ND = self.drop2(self.act(self.norm2(self.fc2(h_NH))))
        if not self.residual_weight:
            return y_ND
        return torch.add(y_ND, self.proj(x_ND), alpha=self.residual_weight)
