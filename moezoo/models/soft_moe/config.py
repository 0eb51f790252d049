"""Configuration of Soft MoE. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.models.moe_vit.config import Classifier, Count, Factor, MoEViTConfig


@dataclass(frozen=True)
class SoftMoEConfig(MoEViTConfig):
    """A ViT whose experts compute soft mixtures of an image's tokens."""

    __pydantic_config__ = STRICT

    classifier: Classifier = option(
        "gap",
        "what the head sees: a class token, the mean of the tokens (gap; timm's avg), a learned query's attention to "
        "them (map), or the first patch (first)",
        alias="global_pool",
    )
    qk_norm: bool = option(True, "layer norm without bias of queries and keys", alias="attention_qk_norm")
    moe_layers: tuple[Annotated[int, Ge(0)], ...] | str = option(
        "last_half",
        "blocks with experts: last<n> (the last n of every second block), every<n>, last_half, all, or a list of "
        "indices from 0",
        alias=("layers", "inject_layers"),
    )
    num_experts: Count = option(128, "experts of an MoE layer")
    num_slots: Count | None = option(
        1, "mixtures that each expert computes of an image; null: as capacity_factor says", null=True
    )
    capacity_factor: Factor = option(
        1.0, "slots of all experts together, as a multiple of the tokens, where num_slots is null"
    )
    router_noise: Annotated[float, Ge(0.0), Le(1000.0)] = option(
        0.0, "standard deviation of the logits' noise in training", alias="noise_std"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_slots is None:  # said once, so that images of another size are mixed into as many
            slots = round(self.tokens_per_group * self.capacity_factor / self.num_experts)
            object.__setattr__(self, "num_slots", slots)
        if self.slots < 1:
            raise ConfigError(
                f"capacity_factor={self.capacity_factor} is not allowed: {self.num_experts} experts would have no slot "
                f"for {self.tokens_per_group} tokens."
            )

    @property
    def tokens_per_group(self) -> int:
        """Tokens that are mixed with each other: an image's."""
        return self.group_size or self.num_tokens

    @property
    def slots(self) -> int:
        """Mixtures that each expert computes."""
        assert self.num_slots is not None
        return self.num_slots

    @property
    def dense_width(self) -> int:
        """Hidden width of an MLP that costs an image as much: all slots' experts, and the three products of mixing."""
        slots = self.num_experts * self.slots
        return max(1, round(slots * self.expert_width / self.tokens_per_group + 1.5 * slots))
