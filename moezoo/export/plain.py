"""Models that answer with a mapping, as models that answer with a tensor, which any reader of a file knows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from moezoo.backbones.answers import plain_answer


class Plain(nn.Module):
    """``model``, answering with the logits of a mapping alone, or the embeddings where it has no logits."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return plain_answer(self.model(images))


def plain(model: nn.Module, images: Tensor) -> nn.Module:
    """``model``, or :class:`Plain` where that answers ``images`` with something else."""
    with torch.no_grad():
        output = model(images)
    return model if plain_answer(output) is output else Plain(model)
