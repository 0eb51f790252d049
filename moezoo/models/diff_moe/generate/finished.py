"""The finished texts of a beam search, best first."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.models.diff_moe.generate.options import GenerationOptions
from moezoo.models.diff_moe.generate.output import GenerationOutput, trimmed


class Finished:
    """The ``num_beams`` best finished texts of each image."""

    def __init__(self, batch: int, options: GenerationOptions, device: torch.device):
        shape = batch, options.num_beams
        self._pad_id = options.pad_id
        self._ids = torch.full((*shape, options.max_length), options.pad_id, device=device)
        self._lengths = torch.ones(shape, dtype=torch.int64, device=device)
        self.scores = torch.full(shape, -torch.inf, device=device)
        """(B, K), best first; ``-inf`` where there is no text yet."""

    def add(self, ids: Tensor, scores: Tensor) -> None:
        """Take in candidates, ids (B, C, t) and scores (B, C); a score of ``-inf`` is no candidate."""
        length = ids.shape[2]
        ids = torch.nn.functional.pad(ids, (0, self._ids.shape[2] - length), value=self._pad_id)
        lengths = torch.full_like(scores, length, dtype=torch.int64)
        self.scores, keep = torch.cat((self.scores, scores), dim=1).topk(self.scores.shape[1], dim=1)
        self._lengths = torch.cat((self._lengths, lengths), dim=1).gather(1, keep)
        self._ids = take(torch.cat((self._ids, ids), dim=1), keep)

    def best(self) -> GenerationOutput:
        return trimmed(self._ids[:, 0], self.scores[:, 0], self._lengths[:, 0])


def take(ids: Tensor, which: Tensor) -> Tensor:
    """Of ids (B, K, t) those that ``which`` (B, C) names: (B, C, t)."""
    return ids.gather(1, which[:, :, None].expand(-1, -1, ids.shape[2]))
