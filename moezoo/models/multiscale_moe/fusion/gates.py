"""The gates alone: features in, weights out."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.models.multiscale_moe.fusion.features import as_rows
from moezoo.moe.checks import check_int
from moezoo.moe.routers.mlp_gate import MLPGateRouter


class GatingNetwork(nn.Module):
    """``softmax(gate(x) / temperature)``: (..., ``input_dim``) to weights (..., ``num_experts``) that sum to one.

    The gate is the router ``mlp_gate``: Linear to half the width, LayerNorm, GELU, dropout, and a Linear to the
    experts.

    Args:
        input_dim: Width of what it sees: of three concatenated features of 512, 1536.
        num_experts: E.
        temperature: Near 0 the best expert takes all; a high one evens the weights out.
        num_layers: 1 to 3.
        num_heads: Gates that vote by the mean of their weights.
        dropout: In training.

    Raises:
        ConfigError: An argument is out of range.
    """

    def __init__(
        self,
        input_dim: int = 1536,
        num_experts: int = 3,
        temperature: float = 1.0,
        num_layers: int = 2,
        num_heads: int = 1,
        *,
        dropout: float = 0.1,
    ):
        super().__init__()
        self.input_dim = check_int("input_dim", input_dim, low=1)
        self.num_experts = check_int("num_experts", num_experts, low=1)
        self.router = MLPGateRouter(
            input_dim,
            num_experts,
            gate_layers=check_int("num_layers", num_layers, low=1, high=3),
            num_heads=num_heads,
            temperature=temperature,
            dropout=dropout,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., ``input_dim``) to float32 (..., ``num_experts``).

        Raises:
            InputError: The width does not fit.
        """
        weights = self.router(as_rows(x, self.input_dim, self)).weight_by_expert()
        return weights.reshape(*x.shape[:-1], self.num_experts)


class MultiHeadGatingNetwork(GatingNetwork):
    """Several gates that vote: the mean of their weights.

    Args:
        input_dim: Width of what it sees.
        num_experts: E.
        num_heads: Gates.
        temperature: Of each gate's softmax.
        num_layers: Of each gate, 1 to 3.
        dropout: In training.
    """

    def __init__(
        self,
        input_dim: int,
        num_experts: int,
        num_heads: int = 4,
        *,
        temperature: float = 1.0,
        num_layers: int = 2,
        dropout: float = 0.1,
    ):
        super().__init__(input_dim, num_experts, temperature, num_layers, num_heads, dropout=dropout)
