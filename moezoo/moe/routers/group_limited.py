"""Group-limited routing (DeepSeek-V3 2024, section 2.1.2, "node-limited routing")."""

from __future__ import annotations

import torch
from torch import Tensor

from moezoo.errors import ConfigError
from moezoo.moe.checks import check_int
from moezoo.moe.routers.base import first_choices
from moezoo.moe.routers.sigmoid_bias import SigmoidBiasRouter


class GroupLimitedRouter(SigmoidBiasRouter):
    """A token's experts come from its best ``top_groups`` groups; a group's score is the sum of its two best experts.

    Neighbours in the expert index form a group. Scores, weights and the bias are
    :class:`~moezoo.moe.routers.sigmoid_bias.SigmoidBiasRouter`'s, whose arguments are taken too.

    Args:
        num_groups: Groups of equal size; must divide E.
        top_groups: Groups a token may use; must hold at least ``top_k`` experts.
    """

    def __init__(self, dim: int, num_experts: int, *, num_groups: int = 1, top_groups: int = 1, **others):
        super().__init__(dim, num_experts, **others)
        self.num_groups = check_int("num_groups", num_groups, low=1, high=num_experts)
        self.top_groups = check_int("top_groups", top_groups, low=1, high=num_groups)
        if num_experts % num_groups:
            raise ConfigError(f"num_groups={num_groups} is not allowed: it must divide num_experts={num_experts}.")
        if top_groups * (num_experts // num_groups) < self.top_k:
            raise ConfigError(
                f"top_groups={top_groups} of {num_experts // num_groups} experts each cannot give top_k={self.top_k}."
            )

    @property
    def expert_groups(self) -> int:
        return self.num_groups

    def set_num_experts(self, num_experts: int) -> None:
        if num_experts % self.num_groups or self.top_groups * (num_experts // self.num_groups) < self.top_k:
            raise ConfigError(
                f"{num_experts} experts are not allowed: they must form num_groups={self.num_groups} equal groups, and "
                f"top_groups={self.top_groups} of these hold top_k={self.top_k}."
            )
        super().set_num_experts(num_experts)

    def select(self, biased_TE: Tensor) -> Tensor:
        grouped_TGM = biased_TE.unflatten(-1, (self.num_groups, -1))
        best_TG2 = grouped_TGM.sort(dim=-1, descending=True).values[..., :2]
        group_TG = first_choices(best_TG2.sum(-1), self.top_groups)
        kept_TG = torch.zeros_like(grouped_TGM[..., 0], dtype=torch.bool).scatter(1, group_TG, True)
        return first_choices(grouped_TGM.masked_fill(~kept_TG[..., None], -torch.inf).flatten(-2), self.top_k)
