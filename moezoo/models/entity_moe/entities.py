"""What an object is: every token, a pooled window of tokens, or a learned slot.

Each rule maps (B, L, D) tokens to (B, O, D) objects and returns a function that spreads objects back over the tokens.
Attention among O objects costs O squared, so windows and slots tame large maps.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.backbones.site import Site
from moezoo.errors import ConfigError, InputError
from moezoo.models.entity_moe.config import EntityAdapterConfig

Spread = Callable[[Tensor], Tensor]
Grid = tuple[int, int]


class Entities(nn.Module):
    """A rule from tokens to objects."""

    def __init__(self, site: Site):
        super().__init__()
        self.site = site

    @abstractmethod
    def forward(self, tokens: Tensor, grid: Grid | None) -> tuple[Tensor, Spread]:
        """(B, L, D) tokens, on a ``grid``, to objects (B, O, D) and the way back from (B, O, D) to (B, L, D)."""

    @abstractmethod
    def geometry(self, grid: Grid | None) -> tuple[Grid | None, int]:
        """Rows and columns of the objects of tokens on ``grid``, and how many objects come before them."""


class TokenEntities(Entities):
    """Every token is an object, class tokens included."""

    def forward(self, tokens: Tensor, grid: Grid | None) -> tuple[Tensor, Spread]:
        return tokens, _same

    def geometry(self, grid: Grid | None) -> tuple[Grid | None, int]:
        return grid, self.site.prefix_tokens


class WindowEntities(Entities):
    """A window of tokens is an object: its tokens pooled by a learned softmax. Class tokens stay objects."""

    def __init__(self, site: Site, window_size: int):
        super().__init__(site)
        if site.grid is None:
            raise ConfigError(f"entities='windows' is not possible at {site.module!r}: its tokens lie on no grid.")
        self.window = window_size
        self.score = nn.Linear(site.dim, 1, bias=False)

    def forward(self, tokens: Tensor, grid: Grid | None) -> tuple[Tensor, Spread]:
        p, w = self.site.prefix_tokens, self.window
        if grid is None:
            raise InputError(
                f"entities='windows': {tokens.shape[1]} tokens do not lie on a grid like {self.site.grid}."
            )
        (rows, columns), (down, right) = grid, (-grid[0] % w, -grid[1] % w)
        prefix, patches = tokens[:, :p], tokens[:, p:].unflatten(1, (rows, columns))
        score = F.pad(self.score(patches), (0, 0, 0, right, 0, down), value=-math.inf)
        patches = F.pad(patches, (0, 0, 0, right, 0, down))
        share = _windows(score, w).softmax(dim=2)
        pooled = (share * _windows(patches, w)).sum(2)

        def spread(objects: Tensor) -> Tensor:
            high, wide = (rows + down) // w, (columns + right) // w
            body = objects[:, p:].unflatten(1, (high, wide)).repeat_interleave(w, 1).repeat_interleave(w, 2)
            return tokens + torch.cat([objects[:, :p], body[:, :rows, :columns].flatten(1, 2)], dim=1)

        return torch.cat([prefix, pooled], dim=1), spread

    def geometry(self, grid: Grid | None) -> tuple[Grid | None, int]:
        windows = None if grid is None else (math.ceil(grid[0] / self.window), math.ceil(grid[1] / self.window))
        return windows, self.site.prefix_tokens


class SlotEntities(Entities):
    """Learned slots gather tokens by a softmax over tokens and give back by a softmax over slots."""

    def __init__(self, site: Site, num_slots: int):
        super().__init__(site)
        self.slots = nn.Parameter(torch.empty(num_slots, site.dim))
        nn.init.trunc_normal_(self.slots, std=0.02)
        self.scale = site.dim**-0.5

    def forward(self, tokens: Tensor, grid: Grid | None) -> tuple[Tensor, Spread]:
        score = tokens @ self.slots.t().to(tokens.dtype) * self.scale
        objects = score.softmax(dim=1).transpose(1, 2) @ tokens

        def spread(objects: Tensor) -> Tensor:
            return tokens + score.softmax(dim=2) @ objects

        return objects + self.slots, spread

    def geometry(self, grid: Grid | None) -> tuple[Grid | None, int]:
        return None, 0


def build_entities(config: EntityAdapterConfig, site: Site) -> Entities:
    """The rule named by ``config.entities``."""
    if config.entities == "windows":
        return WindowEntities(site, config.window_size)
    if config.entities == "slots":
        return SlotEntities(site, config.num_slots)
    return TokenEntities(site)


def _same(objects: Tensor) -> Tensor:
    return objects


def _windows(grid: Tensor, w: int) -> Tensor:
    """(B, rows, columns, D) to (B, windows, w * w, D)."""
    B, rows, columns, D = grid.shape
    blocks = grid.view(B, rows // w, w, columns // w, w, D).transpose(2, 3)
    return blocks.reshape(B, (rows // w) * (columns // w), w * w, D)
