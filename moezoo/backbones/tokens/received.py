"""What every token receives of an attention: the score of A-MoD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.backbones.tokens.scores import AttentionScores


class ReceivedScores(AttentionScores):
    """Scores by a column of the attention map (Gadhikar et al. 2024, "Attention Is All You Need For
    Mixture-of-Depths Routing", eq. 4): ``r_j = mean over heads and queries i of A_ij``, class token and all.

    As of the other scores the number is ``r / (r + 1 / N)``, which keeps the order, and tokens before the patches score
    1. The map is computed anew, at half of what the attention's own products cost: fused kernels show none.
    """

    def __init__(self, prefix_tokens: int):
        super().__init__(prefix_tokens, by_class=False)

    def see_query(self, _module: nn.Module, _args: Any, query: Tensor) -> None:
        self._query = query

    def judge(self, query: Tensor, key: Tensor) -> Tensor:
        grouped = query.unflatten(1, (key.shape[1], -1))  # several heads may share their keys
        logits = (grouped * self.scale_of(query)) @ key[:, :, None].transpose(-2, -1)  # (B, groups, heads, N, N)
        received = logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).mean((1, 2, 3))
        even = 1 / max(received.shape[1], 1)
        patches = received[:, self.prefix_tokens :]
        return F.pad(patches / (patches + even), (self.prefix_tokens, 0), value=1.0)


def attention_scores(score: str, prefix_tokens: int) -> AttentionScores:
    """What makes the scores of that name, one of the three by attention."""
    if score == "received_attention":
        return ReceivedScores(prefix_tokens)
    return AttentionScores(prefix_tokens, by_class=score == "class_attention")
