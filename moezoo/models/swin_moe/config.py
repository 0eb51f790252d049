"""Configuration of Swin-MoE. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from moezoo.config import STRICT, option
from moezoo.models.upcycled.config import Count, Factor, Place, Rate, TopKUpcycledConfig

ALTERNATE = (*((2, block) for block in range(1, 18, 2)), (3, 1))
"""Every second block of stages 3 and 4 of a Swin-S or Swin-B, counted from 0."""


@dataclass(frozen=True)
class SwinMoEConfig(TopKUpcycledConfig):
    """A timm Swin Transformer whose tokens choose one expert each, the surest first where an expert is full."""

    __pydantic_config__ = STRICT

    model_name: str = option("swin_small_patch4_window7_224", "timm architecture of the backbone", alias="backbone")
    moe_layers: int | str | tuple[Place, ...] = option(
        ALTERNATE,
        "whose MLPs become experts: last<n> (the last n of every second block), every<n>, all, last, last_half, "
        "last_stage, or a list of indices, (stage, block) pairs and patterns",
        alias=("inject_layers", "where"),
    )
    top_k: Count = option(1, "experts a token uses", alias=("num_selected_experts", "k"))
    router_args: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"sigma": 1.0, "batch_priority": True},
        metadata={
            "help": "the router's own arguments: noise in training, of standard deviation sigma / num_experts, and who "
            "stays where an expert is full",
            "aliases": (),
        },
    )
    capacity_factor: Factor | None = option(
        1.25, "room of an expert, as a multiple of an even share; null drops nothing", null=True
    )
    capacity_rule: Literal["gshard", "vmoe", "tutel", "megablocks", "lucidrains"] = option(
        "tutel", "whose way to make the room a whole number"
    )
    expert_dropout: Rate | None = option(0.1, "dropout on the experts' hidden units; null keeps the MLP's own")
