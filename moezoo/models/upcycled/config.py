"""Configuration of upcycled backbones. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from annotated_types import Ge, Le

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.models.timm_backbone import Count, Place, Rate, TimmBackboneConfig

Weight: TypeAlias = Annotated[float, Ge(0.0)]
Factor: TypeAlias = Annotated[float, Ge(1e-3), Le(1e6)]


@dataclass(frozen=True)
class UpcycledConfig(TimmBackboneConfig):
    """A timm backbone some of whose MLPs are mixtures of experts. ``None`` keeps timm's default."""

    __pydantic_config__ = STRICT

    upcycles: ClassVar[bool] = True
    """That this configuration rebuilds the model, whose own MLPs became experts."""

    moe_layers: int | str | tuple[Place, ...] = option(
        "last2",
        "whose MLPs become experts: last<n> (the last n of every second block), every<n>, all, last, last_half, "
        "last_stage, or a list of indices, (stage, block) pairs and patterns",
        alias=("inject_layers", "where"),
    )
    num_experts: Count = option(8, "experts of an MoE layer")
    expert_dropout: Rate | None = option(None, "dropout on the experts' hidden units; null keeps the MLP's own")
    init: Literal["copy", "noise", "partition"] = option(
        "copy", "how experts start: as copies of the MLP, as copies with noise, or as its parts"
    )
    init_noise: Annotated[float, Ge(1e-9), Le(100.0)] | None = option(
        None, "init='noise': standard deviation relative to the weights' own; null means 0.02"
    )
    partition: Literal["contiguous", "random", "clustering", "importance"] | None = option(
        None, "init='partition': how hidden units are dealt out; null means random"
    )
    dense: bool = option(False, "the dense twin: one MLP as wide as what a token uses in place of the MoE")

    def __post_init__(self) -> None:
        for name, method in (("init_noise", "noise"), ("partition", "partition")):
            if getattr(self, name) is not None and self.init != method:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not allowed with init={self.init!r}.")


@dataclass(frozen=True)
class TopKUpcycledConfig(UpcycledConfig):
    """A timm backbone whose tokens choose experts made from its MLPs."""

    __pydantic_config__ = STRICT

    top_k: Count = option(2, "experts a token uses", alias=("num_selected_experts", "k"))
    router: str = option("noisy_topk", "registered router")
    router_args: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "the router's own arguments, for example {'sigma': 1.0}", "aliases": ()},
    )
    normalize: bool | None = option(
        None, "make a token's weights sum to one, so that copies compute what the MLP did; null means top_k > 1"
    )
    capacity_factor: Factor | None = option(
        None, "room of an expert, as a multiple of an even share; null drops nothing", null=True
    )
    eval_capacity_factor: Factor | None = option(None, "the same in evaluation; null means the same value", null=True)
    capacity_rule: Literal["gshard", "vmoe", "tutel", "megablocks", "lucidrains"] = option(
        "gshard", "whose way to make the room a whole number"
    )
    importance_weight: Weight = option(0.005, "weight of the importance loss")
    load_weight: Weight = option(0.005, "weight of the load loss, where the router draws noise")
    load_balance_weight: Weight = option(0.0, "weight of the load balancing loss", alias="load_balancing_weight")
    router_z_weight: Weight = option(0.0, "weight of the router z-loss")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k > self.num_experts:
            raise ConfigError(f"top_k={self.top_k} is not allowed: there are num_experts={self.num_experts}.")
        if self.normalize and self.top_k == 1 < self.num_experts:
            raise ConfigError(
                "normalize=True with top_k=1 is not allowed: every weight would be 1 and the router would get no "
                "gradient from the task."
            )
        if self.capacity_factor is None:
            for name, usual in (("capacity_rule", "gshard"), ("eval_capacity_factor", None)):
                if getattr(self, name) != usual:
                    raise ConfigError(f"{name}={getattr(self, name)!r} does nothing without a capacity_factor.")

    @property
    def draws_noise(self) -> bool:
        """Whether the router adds noise in training, without which there is no load to expect."""
        return bool(self.router_args.get("sigma", self.router == "noisy_topk") or self.router_args.get("noise_std"))

    @property
    def aux_weights(self) -> dict[str, float]:
        """The losses that have a weight."""
        weights = {
            "importance": self.importance_weight,
            "load": self.load_weight if self.draws_noise else 0.0,
            "load_balancing": self.load_balance_weight,
            "router_z": self.router_z_weight,
        }
        return {kind: weight for kind, weight in weights.items() if weight}
