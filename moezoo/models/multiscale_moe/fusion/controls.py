"""Fusions without a gate, to measure what the gate is worth: called like it, they give no weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.models.multiscale_moe.fusion.features import check_scales, checked
from moezoo.moe.checks import check_int


class PlainFusion(nn.Module):
    """Features of E scales (B, D) to one (B, D), and ``None`` where a gate would have weights.

    Args:
        feat_dim: Width D.
        scales: A name for each input.
        hidden_dim: Width of the hidden layer.
        dropout: In training.
        final_fusion: A last linear layer with norm and GELU.
    """

    def __init__(
        self, feat_dim: int, scales: Sequence[int], hidden_dim: int, *, dropout: float = 0.1, final_fusion: bool = True
    ):
        super().__init__()
        self.feat_dim = check_int("feat_dim", feat_dim, low=1)
        self.scales = check_scales(scales)
        self.hidden_dim = check_int("hidden_dim", hidden_dim, low=1)
        self._names = [f"scale {scale}" for scale in self.scales]
        self.build(len(self.scales), dropout)
        self.final = block(feat_dim, feat_dim, dropout) if final_fusion else nn.Sequential()

    def build(self, num_inputs: int, dropout: float) -> None:
        """Make the layers before the last."""
        raise TypeError("a fusion says what it is made of")

    def fuse(self, features: list[Tensor]) -> Tensor:
        """(B, D) of a (B, D) feature for each input."""
        raise TypeError("a fusion says how it fuses")

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, None]:
        """A (B, D) feature of each scale to (B, D).

        Raises:
            InputError: A feature is missing, or its width, batch, device or dtype does not fit.
        """
        return self.final(self.fuse(checked(features, self._names, self.feat_dim))), None


class MLPFusion(PlainFusion):
    """An MLP of the concatenated features."""

    def build(self, num_inputs: int, dropout: float) -> None:
        self.mlp = nn.Sequential(
            *block(num_inputs * self.feat_dim, self.hidden_dim, dropout),
            *block(self.hidden_dim, self.feat_dim, dropout),
        )

    def fuse(self, features: list[Tensor]) -> Tensor:
        return self.mlp(torch.cat(features, 1))


class MeanFusion(PlainFusion):
    """The mean of the features, then an MLP with a residual connection."""

    def build(self, num_inputs: int, dropout: float) -> None:
        self.mlp = _mlp(self.feat_dim, self.hidden_dim, dropout)

    def fuse(self, features: list[Tensor]) -> Tensor:
        mean = torch.stack(features).mean(0)
        return mean + self.mlp(mean)


class ConcatFusion(PlainFusion):
    """The concatenated features, projected linearly to one, then an MLP with a residual connection."""

    def build(self, num_inputs: int, dropout: float) -> None:
        self.project = nn.Linear(num_inputs * self.feat_dim, self.feat_dim)
        self.mlp = _mlp(self.feat_dim, self.hidden_dim, dropout)

    def fuse(self, features: list[Tensor]) -> Tensor:
        x = self.project(torch.cat(features, 1))
        return x + self.mlp(x)


class AttentionFusion(PlainFusion):
    """A transformer block over the scales as tokens, then their mean."""

    def build(self, num_inputs: int, dropout: float) -> None:
        D = self.feat_dim
        self.heads = next(heads for heads in (8, 4, 2, 1) if D % heads == 0)
        self.place = nn.Parameter(torch.empty(num_inputs, D))
        nn.init.trunc_normal_(self.place, std=0.02)
        self.norm1 = nn.LayerNorm(D)
        self.qkv = nn.Linear(D, 3 * D)
        self.proj = nn.Linear(D, D)
        self.norm2 = nn.LayerNorm(D)
        self.mlp = nn.Sequential(
            nn.Linear(D, self.hidden_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(self.hidden_dim, D)
        )

    def fuse(self, features: list[Tensor]) -> Tensor:
        x = torch.stack(features, 1) + self.place
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.proj(mixed)
        return (x + self.mlp(self.norm2(x))).mean(1)


def block(in_dim: int, out_dim: int, dropout: float) -> nn.Sequential:
    """Linear, LayerNorm, GELU, dropout."""
    return nn.Sequential(nn.Linear(in_dim, out_dim), nn.LayerNorm(out_dim), nn.GELU(), nn.Dropout(dropout))


def _mlp(dim: int, hidden_dim: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(*block(dim, hidden_dim, dropout), *block(hidden_dim, dim, dropout))
