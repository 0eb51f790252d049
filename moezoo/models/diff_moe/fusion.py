"""What an image becomes in the light of a text."""

from __future__ import annotations

import torch
from timm.layers import use_fused_attn
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.models.diff_moe.encoders import NoteLayer, Stack


class CrossAttention(nn.Module):
    """Queries of one sequence attend to another.

    Args:
        dim: Width of both.
        num_heads: Heads.
        proj_drop: Dropout of the result.
    """

    def __init__(self, dim: int, num_heads: int, *, proj_drop: float = 0.0):
        super().__init__()
        self.num_heads = num_heads
        self.fused_attn = use_fused_attn()
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.attn_drop = nn.Identity()
        """Passes the attention (B, heads, N, L) on where ``fused_attn`` is off, for hooks that look at it."""
        self.cross = True
        """For those hooks: whether the keys are of another sequence than the queries."""
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor | None = None) -> Tensor:
        """
        Args:
            x: (B, N, D), which asks.
            other: (B, L, D), which is attended to.
            mask: (B, L) bool, False for what must not be attended to.
        """
        return self.attend(x, *self.keys_values(other), mask=None if mask is None else mask[:, None, :])

    def keys_values(self, other: Tensor) -> tuple[Tensor, Tensor]:
        """What is attended to, (B, L, D), as keys and values (B, heads, L, D / heads)."""
        k, v = self.kv(other).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        return k, v

    def attend(self, x: Tensor, k: Tensor, v: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """(B, N, D) asks keys and values; ``mask`` (B or 1, N or 1, L) bool is False where it must not look."""
        q = self.q(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        keys = None if mask is None else mask[:, None]
        if self.fused_attn:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=keys)
        else:
            score = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            score = score if keys is None else score.masked_fill(~keys, -torch.inf)
            out = self.attn_drop(score.softmax(-1)) @ v
        return self.proj_drop(self.proj(out.transpose(1, 2).flatten(2)))


class CrossModalFusion(Stack):
    """Image tokens attend to the text, a sigmoid gate mixes what they get with what they were, then blocks follow.

    ``g = sigmoid(W [x, a] + b)``, ``x = g a + (1 - g) x``.

    Args:
        config: The model's; ``fusion_layers`` may be 0.
        grid: Rows and columns of the image tokens.
    """

    def __init__(self, config: DiffMoEConfig, grid: tuple[int, int]):
        super().__init__(config, "fusion", config.fusion_layers)
        dim = config.embed_dim
        self.grid = grid
        self.prefix_tokens = 1 if config.global_pool == "cls" else 0
        self.cross_attn = CrossAttention(dim, config.num_heads, proj_drop=config.dropout)
        self.gate = nn.Linear(2 * dim, dim)

    def forward(
        self, image: Tensor, text: Tensor, mask: Tensor | None = None, *, note: NoteLayer | None = None
    ) -> Tensor:
        """(B, N, D) image tokens and (B, L, D) text tokens to (B, N, D); ``mask`` marks the real text tokens."""
        attended = self.cross_attn(image, text, mask)
        share = self.gate(torch.cat([image, attended], dim=-1)).sigmoid()
        return self.run(share * attended + (1 - share) * image, note=note)

    def token_geometry(self, shape: torch.Size) -> tuple[tuple[int, int] | None, int]:
        """For recording: the grid of the tokens last seen, and how many stand before it."""
        return self.grid, self.prefix_tokens
