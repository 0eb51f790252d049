"""One expert that every token it is given passes through."""

from __future__ import annotations

from torch import Tensor, nn

from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.moe.experts.mlp_expert import Activation


class Expert(nn.Module):
    """``dropout(fc2(dropout(act(fc1(norm(x))))))``, (..., D) to (..., D).

    Args:
        dim: Width D.
        hidden_dim: Hidden width.
        activation: ``gelu``, ``relu`` or ``silu``.
        dropout: Of the hidden units and of the result.
        eps: Of the layer norm.
    """

    is_expert = True

    def __init__(self, dim: int, hidden_dim: int, *, activation: str = "gelu", dropout: float = 0.0, eps: float = 1e-5):
        super().__init__()
        self.norm = nn.LayerNorm(dim, eps=eps)
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.act = Activation(activation)
        self.drop1 = nn.Dropout(dropout)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.drop2 = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop2(self.fc2(self.drop1(self.act(self.fc1(self.norm(x))))))


def expert_width(config: DiffMoEConfig) -> int:
    """Hidden width of one expert."""
    return max(1, int(config.embed_dim * config.mlp_ratio))


def make_expert(config: DiffMoEConfig, experts: int = 1) -> Expert:
    """An expert as ``config`` describes it, as wide as ``experts`` of them."""
    return Expert(
        config.embed_dim,
        experts * expert_width(config),
        activation=config.activation,
        dropout=config.dropout,
        eps=config.layer_norm_eps,
    )
