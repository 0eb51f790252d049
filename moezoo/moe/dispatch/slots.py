"""The plan of a routing by slots: each row is a mixture of a sample's tokens, and so is what a token gets back."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from moezoo.moe.dispatch.base import Plan, even_offsets
from moezoo.moe.types import Slots


@dataclass(frozen=True)
class SlotPlan(Plan):
    """B * S rows for each expert, whatever the tokens are, so that no path has to wait for the device."""

    slots: Slots

    @staticmethod
    def of(slots: Slots, num_tokens: int, path: str) -> SlotPlan:
        B, _, E, S = slots.dispatch.shape
        expert_E = torch.arange(E, device=slots.dispatch.device)
        return SlotPlan(
            expert_index=expert_E[:, None].expand(E, B * S).reshape(-1),
            counts=torch.full_like(expert_E, B * S),
            num_tokens=num_tokens,
            path=path,
            slots=slots,
        )

    @cached_property
    def sizes(self) -> list[int]:
        B, _, E, S = self.slots.dispatch.shape
        return [B * S] * E

    @property
    def offsets(self) -> Tensor:
        return even_offsets(self.counts)

    def gather(self, x_TD: Tensor) -> Tensor:
        """(E * B * S, D): each slot's mixture of its sample's tokens."""
        B, L, E, S = self.slots.dispatch.shape
        D = x_TD.shape[-1]
        share_BPL = self.slots.dispatch.flatten(2).transpose(1, 2).to(x_TD.dtype)
        slot_BPD = share_BPL @ x_TD.reshape(B, L, D)
        return slot_BPD.reshape(B, E, S, D).transpose(0, 1).reshape(E * B * S, D)

    def combine(self, y_ND: Tensor) -> Tensor:
        """(T, D): each token's mixture of its sample's slots."""
        B, _, E, S = self.slots.combine.shape
        D = y_ND.shape[-1]
        slot_BPD = y_ND.reshape(E, B, S, D).transpose(0, 1).reshape(B, E * S, D)
        share_BLP = self.slots.combine.flatten(2).to(y_ND.dtype)
        return (share_BLP @ slot_BPD).reshape(self.num_tokens, D)
