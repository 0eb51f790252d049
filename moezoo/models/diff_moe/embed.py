"""From pixels and token ids to tokens of the model's width."""

from __future__ import annotations

import torch
from timm.layers import PatchEmbed, resample_abs_pos_embed
from torch import Tensor, nn

from moezoo.models.diff_moe.config import DiffMoEConfig

__all__ = ["ImageEmbed", "PatchEmbed", "TextEmbed"]


def patch_embed(config: DiffMoEConfig) -> PatchEmbed:
    """Patches of the image as tokens (B, N, D), or as (B, H, W, D) where images may have any size."""
    return PatchEmbed(
        img_size=config.sides,
        patch_size=config.patch_size,
        in_chans=config.in_channels,
        embed_dim=config.embed_dim,
        strict_img_size=not config.dynamic_img_size,
        output_fmt="NHWC",
    )


class ImageEmbed(nn.Module):
    """Adds to patches what they do not say: where they are, that they are of an image, and the class token.

    Args:
        config: The model's.
        grid: Rows and columns of patches.
        typed: Add what tells image tokens from text tokens.
    """

    def __init__(self, config: DiffMoEConfig, grid: tuple[int, int], *, typed: bool):
        super().__init__()
        self.grid = grid
        self.prefix_tokens = 1 if config.global_pool == "cls" else 0
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.embed_dim)) if self.prefix_tokens else None
        self.position = nn.Parameter(torch.zeros(1, self.prefix_tokens + grid[0] * grid[1], config.embed_dim))
        self.modality = nn.Parameter(torch.zeros(config.embed_dim)) if typed else None
        self.drop = nn.Dropout(config.dropout)

    def forward(self, patches: Tensor) -> Tensor:
        """(B, H, W, D) patches to (B, N, D) tokens, the class token first."""
        grid = (patches.shape[1], patches.shape[2])
        x = patches.flatten(1, 2)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self._positions(grid)
        if self.modality is not None:
            x = x + self.modality
        return self.drop(x)

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        if grid == self.grid:
            return self.position
        return resample_abs_pos_embed(
            self.position, new_size=list(grid), old_size=list(self.grid), num_prefix_tokens=self.prefix_tokens
        )

    @torch.no_grad()
    def set_grid(self, grid: tuple[int, int]) -> None:
        """Interpolate the positions for another grid, for good."""
        self.position = nn.Parameter(self._positions(grid).clone(), requires_grad=self.position.requires_grad)
        self.grid = grid


class TextEmbed(nn.Module):
    """Token ids (B, L) to tokens (B, L, D): embedding, projection, position, and that they are of a text."""

    def __init__(self, config: DiffMoEConfig):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.text_embed_dim)
        self.proj = nn.Linear(config.text_embed_dim, config.embed_dim)
        self.position = nn.Parameter(torch.zeros(1, config.max_text_len, config.embed_dim))
        self.modality = nn.Parameter(torch.zeros(config.embed_dim))
        self.drop = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, first: int = 0) -> Tensor:
        """``first`` is the position of the first id."""
        positions = self.position[:, first : first + ids.shape[1]]
        return self.drop(self.proj(self.words(ids)) + positions + self.modality)
