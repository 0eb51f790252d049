"""What the model answers when it is asked for more than logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.utils._pytree import register_dataclass

from moezoo.models.fields import FieldMapping


@dataclass(frozen=True, eq=False)
class AttentionRoutingOutput(FieldMapping):
    """B images of N cells. What was not asked for, or what the variant does not have, is ``None``."""

    logits: Tensor | None = None
    """(B, classes)."""
    attention_scores: Tensor | None = None
    """(B, N) between 0 and 1, row by row of the grid; ``None`` where nothing scores the cells."""
    routing_mask: Tensor | None = None
    """(B, N) exactly 1 where the big MLP ran and 0 where the small one did; it carries the router's gradient."""
    router_stats: Mapping[str, Tensor] | None = None
    """``routing_ratio`` (): share of cells for the big MLP; ``per_image`` (B,): the same of each image; ``threshold``
    (): that of the router, where it has one."""


register_dataclass(AttentionRoutingOutput)
