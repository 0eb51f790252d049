"""Stacks of blocks: over image tokens, over text tokens."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from moezoo.models.diff_moe.block import UnifiedModalEncoder
from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.moe import Routing

NoteLayer: TypeAlias = Callable[[int, Routing], None]


class Stack(nn.Module):
    """``depth`` blocks of one kind and a final norm.

    Args:
        config: The model's.
        kind: Of the blocks.
        depth: How many.
    """

    def __init__(self, config: DiffMoEConfig, kind: str, depth: int):
        super().__init__()
        rates = torch.linspace(0, config.drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(UnifiedModalEncoder(config, kind, drop_path=rate) for rate in rates)
        self.norm = nn.LayerNorm(config.embed_dim, eps=config.layer_norm_eps)
        self.grad_checkpointing = config.use_gradient_checkpointing

    def run_block(self, index: int, x: Tensor, *, note: NoteLayer | None = None, **given: Any) -> Tensor:
        """One block, recomputed in the backward pass where checkpointing is on."""
        block = self.blocks[index]
        told = None if note is None else functools.partial(note, index)
        # A compiler decides by itself what to recompute.
        if self.grad_checkpointing and self.training and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            return checkpoint(block, x, **given, note=told, use_reentrant=False)
        return block(x, **given, note=told)

    def run(self, x: Tensor, *, note: NoteLayer | None = None, **given: Any) -> Tensor:
        """All blocks and the norm."""
        for index in range(len(self.blocks)):
            x = self.run_block(index, x, note=note, **given)
        return self.norm(x)


class ImageEncoder(Stack):
    """Blocks over the tokens (B, N, D) of images.

    Args:
        config: The model's.
        grid: Rows and columns of the tokens.
    """

    def __init__(self, config: DiffMoEConfig, grid: tuple[int, int]):
        super().__init__(config, "image", config.img_encoder_layers)
        self.grid = grid
        self.prefix_tokens = 1 if config.global_pool == "cls" else 0

    def forward(self, x: Tensor, *, note: NoteLayer | None = None) -> Tensor:
        return self.run(x, note=note)

    def token_geometry(self, shape: torch.Size) -> tuple[tuple[int, int] | None, int]:
        """For recording: the grid of the tokens last seen, and how many stand before it."""
        return (self.grid, self.prefix_tokens) if len(shape) == 3 else (None, 0)


class TextEncoder(Stack):
    """Blocks over the tokens (B, L, D) of texts. Padding is neither attended to nor given to an expert, and comes out
    as zeros."""

    def __init__(self, config: DiffMoEConfig):
        super().__init__(config, "text", config.text_encoder_layers)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, note: NoteLayer | None = None) -> Tensor:
        """
        Args:
            x: The tokens.
            mask: (B, L) bool, True for real tokens; ``None`` means all are.
            note: Is told each layer's number and routing.
        """
        if mask is None:
            return self.run(x, note=note)
        # The meta device cannot say how many are real: there the experts are given all.
        rows = None if mask.is_meta else mask.flatten().nonzero().squeeze(1)
        padding = ~mask[..., None]
        x = x.masked_fill(padding, 0.0)
        return self.run(x, mask=mask, rows=rows, note=note).masked_fill(padding, 0.0)

    def token_geometry(self, shape: torch.Size) -> tuple[None, int]:
        """For recording: words lie on no grid."""
        return None, 0
