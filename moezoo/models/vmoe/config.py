"""Configuration of V-MoE. No torch here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Le

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.models.moe_vit.config import Count, Factor, MoEViTConfig, Weight


@dataclass(frozen=True)
class VMoEConfig(MoEViTConfig):
    """A ViT whose tokens choose experts by noisy top-k, or whose experts choose tokens."""

    __pydantic_config__ = STRICT

    router: Literal["noisy_topk", "expert_choice"] = option(
        "noisy_topk", "who chooses: tokens their experts, or experts their tokens"
    )
    top_k: Count = option(
        2, "experts a token chooses; plays no part in expert_choice", alias=("num_selected_experts", "k")
    )
    noise_std: Annotated[float, Ge(0.0), Le(1000.0)] = option(
        1.0, "standard deviation of the logits' noise in training, before its division by num_experts"
    )
    batch_priority: bool = option(
        False, "a full expert serves the tokens that are surest first, not the first tokens (batch prioritised routing)"
    )
    capacity_factor: Factor | None = option(
        1.05, "room of an expert, as a multiple of an even share; null drops nothing, in evaluation neither", null=True
    )
    eval_capacity_factor: Factor | None = option(None, "the same in evaluation; null means the same value", null=True)
    capacity_rounding: Literal["ceil", "round"] = option(
        "ceil", "how the room becomes a whole number", alias="capacity_ceil_or_round"
    )
    capacity_multiple_of: Annotated[int, Ge(0), Le(65536)] | None = option(
        4, "then it is rounded up to a multiple of this; null does not", null=True
    )
    capacity: Count | None = option(None, "the room itself, in place of capacity_factor", null=True)
    group_images: Count = option(8, "images that share the experts' room, where group_size is null")
    importance_weight: Weight = option(0.005, "weight of the importance loss", alias="importance_loss_weight")
    load_weight: Weight = option(0.005, "weight of the load loss, which needs noise", alias="load_loss_weight")
    load_balance_weight: Weight = option(
        0.0, "weight of GShard's loss on first choices", alias=("gshard_loss_weight", "load_balancing_weight")
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.router == "noisy_topk" and self.top_k > self.num_experts:
            raise ConfigError(f"top_k={self.top_k} is not allowed: there are num_experts={self.num_experts}.")
        if self.router == "expert_choice" and self.capacity_factor is None and self.capacity is None:
            raise ConfigError(
                "capacity_factor=None is not allowed with router='expert_choice': it says how many tokens."
            )

    @property
    def tokens_per_group(self) -> int:
        """Tokens that share an expert's room."""
        return self.group_size or self.group_images * self.num_tokens

    @property
    def chosen(self) -> float:
        """Experts that compute a token in evaluation: K, or of experts that choose on average."""
        if self.router == "noisy_topk":
            return self.top_k
        tokens, room = self.tokens_per_group, self.capacity
        if room is None:
            share = tokens * (self.eval_capacity_factor or self.capacity_factor or 1.0) / self.num_experts
            room = math.ceil(share) if self.capacity_rounding == "ceil" else round(share)
            room += -room % (self.capacity_multiple_of or 1)
        return min(room, tokens) * self.num_experts / tokens

    @property
    def dense_width(self) -> int:
        """Hidden width of an MLP that costs a token as much: its experts' together, and what the router costs."""
        return max(1, round(self.chosen * self.expert_width + self.num_experts / 2))
