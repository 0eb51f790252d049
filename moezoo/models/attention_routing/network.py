"""The model: encoder → scores → big and small MLP → aggregator → head."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moezoo.models.attention_routing.aggregators import build_aggregator
from moezoo.models.attention_routing.attention import AttentionHead
from moezoo.models.attention_routing.baselines import unrouted_cells
from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.models.attention_routing.costs import reads_features
from moezoo.models.attention_routing.encoder import Encoder
from moezoo.models.attention_routing.head import TaskHead
from moezoo.models.attention_routing.image_model import ImageModel
from moezoo.models.attention_routing.init import init_weights
from moezoo.models.attention_routing.mismatch import Resized, cells_hint
from moezoo.models.attention_routing.output import AttentionRoutingOutput
from moezoo.models.attention_routing.patches import CellRows, cell_windows, given_windows
from moezoo.models.attention_routing.recompute import recomputes
from moezoo.models.attention_routing.routing import hard_mask, routed_cells, threshold_in_use
from moezoo.moe import MoELayer, Routing, set_budget, set_threshold
from moezoo.moe.aux import mark_root
from moezoo.moe.experts.modules import ModuleExperts

Note = Callable[[Routing], None]


class AttentionRouting(ImageModel):
    """Cells of an image, each for the MLP that it deserves.

    Args:
        config: What to build. Parts that it does not use are not built: a control that computes all cells alike has no
            MoE layer, and no encoder where nobody reads it.
    """

    def __init__(self, config: AttentionRoutingConfig):
        super().__init__(config)
        self.grid = config.grid
        self.aggregator = build_aggregator(config.aggregator, config.embed_dim, config.num_cells, config.aggregator_dim)
        self.head = TaskHead(config.aggregator_dim, config.head_hidden_dim, config.num_classes, config.dropout)
        routed = not config.dense and config.compute not in ("full", "cheap", "none")
        scored = self.aggregator.needs_scores or (routed and config.compute == "attention")
        self.encoder = Encoder(config) if scored or reads_features(config) else None
        self.attention = AttentionHead(config) if scored else None
        seen = config.in_channels if self.encoder is None else config.encoder_channels
        self.moe: MoELayer | None = routed_cells(config, seen) if routed else None
        self.plain = None if routed else unrouted_cells(config, encodes=self.encoder is not None, scores=scored)
        init_weights(self)
        mark_root(self)

    def forward(
        self,
        images: Tensor,
        patches: Tensor | None = None,
        *,
        return_attention: bool = False,
        return_stats: bool = False,
    ) -> Tensor | AttentionRoutingOutput:
        """Classify images.

        Args:
            images: (B, C, H, W).
            patches: (B, N, C, h, w) what the big MLP is to see of each cell, flattened or not; ``None`` cuts it from
                the images.
            return_attention: Answer a mapping, with the cells' scores.
            return_stats: Answer a mapping, with who computed what.

        Returns:
            (B, classes) logits, or a mapping of them and what was asked for.

        Raises:
            InputError: A shape or type does not fit.
        """
        noted: list[Routing] = []
        scores, tokens = self._cells(images, patches, noted.append if return_stats else None)
        logits = self.head(self.aggregator(tokens, scores))
        if not (return_attention or return_stats):
            return logits
        mask = self._mask(noted, tokens) if return_stats else None
        return AttentionRoutingOutput(
            logits=logits,
            attention_scores=scores if return_attention else None,
            routing_mask=mask,
            router_stats=None if mask is None else self._stats(mask),
        )

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images to (B, D), what the aggregator gives."""
        scores, tokens = self._cells(images, None, None)
        return self.aggregator(tokens, scores)

    def set_budget(self, budget: float | None) -> None:
        """Give the big MLP this share of every image's cells, those of the highest scores; ``None``: as trained.

        Raises:
            ConfigError: The share is out of range, or the variant routes nothing.
        """
        set_budget(self, budget)

    def set_threshold(self, threshold: float | None) -> None:
        """Give the big MLP the cells whose score reaches ``threshold``; ``None``: as trained.

        Raises:
            ConfigError: The threshold is out of range, or the variant has none.
        """
        set_threshold(self, threshold)

    @property
    def big(self) -> nn.Module | None:
        """The big MLP (of the dense twin, its one MLP); ``None`` where there is none."""
        return self._mlp("big", 0)

    @property
    def small(self) -> nn.Module | None:
        """The small MLP; ``None`` where there is none."""
        return self._mlp("small", 1)

    @property
    def routing_ratio(self) -> float | None:
        """Share of cells for the big MLP where the variant alone fixes it; ``None`` where routes or widths differ."""
        return None if self.config.dense else {"full": 1.0, "cheap": 0.0}.get(self.config.compute)

    def mismatch_hint(self, resized: Resized) -> str:
        """What a file with tensors of other shapes was saved with, as far as these tell."""
        return cells_hint(self.config, resized)

    def token_geometry(self, shape: torch.Size) -> tuple[tuple[int, int], int]:
        """For recording: the grid of the tokens, and how many stand before it."""
        return self.grid, 0

    def _mlp(self, name: str, expert: int) -> nn.Module | None:
        if self.moe is None:
            return getattr(self.plain, name, None)
        assert isinstance(self.moe.experts, ModuleExperts)
        return self.moe.experts.members[expert]

    def _cells(self, images: Tensor, patches: Tensor | None, note: Note | None) -> tuple[Tensor | None, Tensor]:
        """(B, N) scores and (B, N, D) embeddings."""
        features = None if self.encoder is None else self.encoder(images).flatten(2).transpose(1, 2)
        scores = None if self.attention is None else self.attention(features)
        rows = CellRows(self._windows(images, patches), features)
        if features is None:  # a router that looks at nothing still wants to know what image it is
            features = F.avg_pool2d(images, self.config.cell).flatten(2).transpose(1, 2)
        if recomputes(self):
            return scores, checkpoint(self._embed, features, scores, rows, note, use_reentrant=False)
        return scores, self._embed(features, scores, rows, note)

    def _embed(self, seen: Tensor, scores: Tensor | None, rows: CellRows, note: Note | None) -> Tensor:
        big, small = getattr(rows, self.config.big_input), getattr(rows, self.config.small_input)
        if self.moe is None:
            assert self.plain is not None
            return self.plain(big, small).unflatten(0, seen.shape[:2])
        scores = scores if self.moe.router.takes_scores else None
        return self.moe(seen, scores=scores, sources=(big, small), note=note)

    def _windows(self, images: Tensor, patches: Tensor | None) -> Tensor:
        config = self.config
        if patches is None:
            return cell_windows(images, self.grid, config.crop_context)
        height, width = (side + 2 * config.crop_context for side in config.cell)
        return given_windows(patches, len(images), self.grid, (config.in_channels, height, width))

    def _mask(self, noted: list[Routing], tokens: Tensor) -> Tensor:
        if noted:
            return hard_mask(noted[-1], tokens.shape[:2])
        return tokens.new_full(tokens.shape[:2], float(self.big is not None))

    def _stats(self, mask: Tensor) -> dict[str, Tensor]:
        stats = {"routing_ratio": mask.sum() / max(mask.numel(), 1), "per_image": mask.mean(1)}
        threshold = None if self.moe is None else threshold_in_use(self.moe.router)
        return stats if threshold is None else {**stats, "threshold": threshold.to(mask.device)}
