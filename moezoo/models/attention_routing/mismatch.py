"""What the shapes of a file's tensors say about the cells it was trained on. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping

from moezoo.models.attention_routing.config import AttentionRoutingConfig

Resized = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
"""Tensor name to its shape in the file and in the model, where they differ."""
BIG = ("moe.experts.members.0.layers.0.weight", "plain.big.layers.0.weight")
"""What reads the crops."""


def cells_hint(config: AttentionRoutingConfig, resized: Resized) -> str:
    """A sentence that names the option behind other cells; empty where the cells are not what differs."""
    big = next((pair for name, pair in resized.items() if name in BIG), None)
    if big is None or big[0][0] != big[1][0]:
        return ""
    if abs(big[0][1] - big[1][1]) == config.encoder_channels:
        other = "crop" if config.big_input == "both" else "both"
        return f" The file was saved with big_input={other!r}, the model has big_input={config.big_input!r}."
    found = _grid_of(config, big[0][1])
    as_many = config.aggregator == "concat" and not any(name.startswith("aggregator.") for name in resized)
    if found is None or found == config.grid or as_many:
        return " The file's crops are of another size: look at patch_grid_size, crop_context and img_size."
    return (
        f" The file was saved with patch_grid_size={_shown(found)} (or another crop_context), the model has "
        f"patch_grid_size={_shown(config.grid)}."
    )


def _grid_of(config: AttentionRoutingConfig, width: int) -> tuple[int, int] | None:
    """The grid whose square cells give rows of this width, all else being as in ``config``."""
    pixels, rest = divmod(width - (config.encoder_channels if config.big_input == "both" else 0), config.in_channels)
    side = math.isqrt(max(pixels, 0)) - 2 * config.crop_context
    height, width = config.sides
    if rest or side < 1 or (side + 2 * config.crop_context) ** 2 != pixels or height % side or width % side:
        return None
    return height // side, width // side


def _shown(grid: tuple[int, int]) -> str:
    return str(grid[0] if grid[0] == grid[1] else grid)
