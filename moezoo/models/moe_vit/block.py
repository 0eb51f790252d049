"""timm's block, told where its tokens lie, and the head's layer of tanh."""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from moezoo.models.moe_vit.tokens import TokenLayout


class MoEViTBlock(Block):
    """A pre-norm block whose ``mlp`` may be an MoE layer."""

    layout: TokenLayout

    def token_geometry(self, shape: torch.Size) -> tuple[tuple[int, int] | None, int]:
        """For recording: the grid of the (B, N, D) tokens, and how many stand before it."""
        return self.layout.of(shape[1])


class TanhLinear(nn.Linear):
    """``tanh(W x + b)``."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input).tanh()
