"""What becomes of a decision when one expert's result is left out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from moezoo.moe.record import RoutingRecord
from moezoo.moe.types import Routing, Slots


@contextmanager
def without_expert(layer: nn.Module, expert: int) -> Iterator[None]:
    """Inside the block an expert of the MoE layer counts nothing; the weights of the others stay as they are."""

    def leave_out(_module, _args, routing: Routing) -> Routing:
        weight = routing.weight.masked_fill(routing.expert_index == expert, 0)
        slots = routing.slots
        if slots is not None:
            combine = slots.combine.clone()
            combine[:, :, expert] = 0
            slots = Slots(slots.dispatch, combine)
        return dataclasses.replace(routing, weight=weight, slots=slots)

    handle = layer.get_submodule("router").register_forward_hook(leave_out)
    try:
        yield
    finally:
        handle.remove()


def weight_shares(records: Sequence[RoutingRecord], images: int) -> Tensor | None:
    """(images, E) float64: of each image's weights in all calls of one layer the share of every expert.

    ``None`` where the tokens cannot be told apart by image.
    """
    total: Tensor | None = None
    for record in records:
        routing = record.routing
        if routing.num_tokens % images:
            return None
        own = routing.weight_by_expert().detach().cpu().double().view(images, -1, routing.num_experts).sum(1)
        total = own if total is None else total + own
    return None if total is None else total / total.sum(-1, keepdim=True).clamp(min=1e-12)
