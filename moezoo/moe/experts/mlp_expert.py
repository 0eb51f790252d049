"""One expert as a module of its own, with the names of timm's MLPs."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.moe.activations import get_activation
from moezoo.moe.checks import check_positive, check_probability
from moezoo.moe.experts.stacked import init_linear_


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


class ResidualMLPExpert(MLPExpert):
    """``x + MLP(norm(x))``."""

    def __init__(self, dim: int, hidden_dim: int, *, eps: float = 1e-5, **args):
        super().__init__(dim, hidden_dim, **args)
        self.norm = nn.LayerNorm(dim, eps=check_positive("eps", eps))

    def forward(self, x_ND: Tensor) -> Tensor:
        return x_ND + super().forward(self.norm(x_ND))
