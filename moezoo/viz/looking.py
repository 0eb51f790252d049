"""Recorded attention, brought onto the grid of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.backbones.attention import AttentionRecord
from moezoo.viz.attention import attention_received
from moezoo.viz.image_text import word_maps
from moezoo.viz.words import words_of


@dataclass(frozen=True)
class Words:
    """The words of B sentences, and where each looks."""

    words: list[list[str]]
    maps: list[Tensor]
    """B times (words, rows, columns)."""
    title: str


def attention_over_images(records: Sequence[AttentionRecord]) -> dict[str, Tensor]:
    """Of each layer in which image tokens attend to each other, (B, rows, columns) attention received."""
    return {
        record.name: attention_received(record.weights, record.key_grid, record.key_prefix)
        for record in records
        if record.call == 0 and not record.cross and record.key_grid is not None
    }


def attention_words(
    model: nn.Module, records: Sequence[AttentionRecord], ids: Tensor, mask: Tensor, *, title: str, ahead: int = 0
) -> Words | None:
    """Words and patches by the attention between them, mean over the layers; ``None`` where there is none.

    Args:
        model: What was recorded.
        records: Of one forward of images and ``ids``.
        ids: (B, L) int64 tokens.
        mask: (B, L) bool, true where a token is.
        title: Of the picture.
        ahead: How far before a token the place lies that looks for it: 1 where each place predicts the next.
    """
    crossing = [record for record in records if record.cross and record.call == 0]
    grid, prefix = _grid_of(model)
    if not crossing or grid is None:
        return None
    weights = torch.stack([record.weights.float().cpu() for record in crossing]).mean(0)
    if crossing[0].query_grid is None:  # text looks at the image
        weights = weights.transpose(2, 3)
    said, maps = _words(model, ids, mask), []
    for row, own in enumerate(said):
        places = [[max(place - ahead, 0) for place in each] for _, each in own]
        maps.append(word_maps(weights[row], places, grid, prefix))
    return Words([[word for word, _ in own] for own in said], maps, title)


def similar_words(model: nn.Module, output: Any, ids: Tensor, mask: Tensor) -> Words | None:
    """Words and patches by the cosine of their features, of which retrieval compares the means.

    Args:
        model: What answered.
        output: A mapping with (B, N, D) ``img_features`` and (B, L, D) ``text_features``; without them ``None``.
        ids: (B, L) int64 tokens.
        mask: (B, L) bool, true where a token is.
    """
    grid, prefix = _grid_of(model)
    if grid is None or "img_features" not in output or "text_features" not in output:
        return None
    image, text = (F.normalize(output[key].float().cpu(), dim=-1) for key in ("img_features", "text_features"))
    cosine = (image @ text.transpose(1, 2))[:, None]
    said = _words(model, ids, mask)
    maps = [
        # A word of several tokens is as similar as they are on average.
        word_maps(cosine[row], [each for _, each in own], grid, prefix)
        / torch.tensor([len(each) for _, each in own]).view(-1, 1, 1)
        for row, own in enumerate(said)
    ]
    return Words([[word for word, _ in own] for own in said], maps, "Cosine of words and patches")


def _words(model: nn.Module, ids: Tensor, mask: Tensor) -> list[list[tuple[str, list[int]]]]:
    tokenizer: Any = model.tokenizer
    rows = (row[real].tolist() for row, real in zip(ids.cpu(), mask.cpu(), strict=True))
    return [words_of(row, lambda part: tokenizer.decode([part])[0]) for row in rows]


def _grid_of(model: nn.Module) -> tuple[tuple[int, int] | None, int]:
    """The grid of the model's images, from whichever part knows it."""
    for module in model.modules():
        grid = getattr(module, "grid", None)
        if hasattr(module, "token_geometry") and isinstance(grid, tuple):
            return grid, getattr(module, "prefix_tokens", 0)
    return None, 0
