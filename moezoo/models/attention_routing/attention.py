"""The attention head: how much each cell deserves to be looked at."""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from moezoo.models.attention_routing.config import AttentionRoutingConfig


class AttentionHead(nn.Module):
    """(B, N, D) features of the cells to (B, N) scores between 0 and 1, each cell by itself.

    Args:
        config: The model's.
    """

    is_router = True
    """Its parameters are a router's, though it stands before the MoE layer."""

    def __init__(self, config: AttentionRoutingConfig):
        super().__init__()
        widths = [config.encoder_channels, *[config.attention_hidden] * config.attention_layers]
        layers: list[nn.Module] = []
        for width, following in itertools.pairwise(widths):
            layers += [nn.Linear(width, following), nn.ReLU()]
        self.hidden = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1], 1)

    def forward(self, features: Tensor) -> Tensor:
        return self.score(self.hidden(features)).squeeze(-1).sigmoid()
