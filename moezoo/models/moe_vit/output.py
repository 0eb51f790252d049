"""What the model answers when it is asked for more than logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import register_dataclass

from moezoo.models.fields import FieldMapping
from moezoo.moe import RoutingRecord


@dataclass(frozen=True, eq=False)
class MoEViTOutput(FieldMapping):
    """Logits, and where the tokens went."""

    logits: Tensor | None = None
    """(B, classes)."""
    router_stats: Mapping[str, Tensor] | None = None
    """Of L MoE layers, from the first on: ``expert_rows`` (L, E) rows that each expert computed; ``dropped`` (L,) share
    of the choices that found their expert full; ``unserved`` (L,) share of the tokens that no expert computed."""


register_dataclass(MoEViTOutput)


def router_stats(records: Sequence[RoutingRecord]) -> dict[str, Tensor]:
    """:attr:`MoEViTOutput.router_stats` of one forward; empty for a model without MoE layers."""
    if not records:
        return {}
    routings = [record.routing for record in records]
    rows, dropped, unserved = [], [], []
    for routing in routings:
        rows.append(torch.tensor(routing.expert_rows(), device=routing.weight.device))
        dropped.append(routing.num_dropped() / max(routing.dropped.numel(), 1))
        served = torch.zeros(routing.num_tokens, dtype=torch.int64, device=routing.weight.device)
        served = served.index_add(0, routing.token_index, (~routing.dropped).long())
        unserved.append((served == 0).float().mean() if routing.num_tokens else served.sum().float())
    return {"expert_rows": torch.stack(rows), "dropped": torch.stack(dropped), "unserved": torch.stack(unserved)}
