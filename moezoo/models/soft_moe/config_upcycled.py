"""Configuration of Soft MoE made from a pretrained ViT. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.models.upcycled.config import Count, Factor, Place, UpcycledConfig

Ratio: TypeAlias = Annotated[float, Gt(0.0), Le(1.0)]


@dataclass(frozen=True)
class SoftMoEUpcycledConfig(UpcycledConfig):
    """A timm ViT whose experts, made from its MLPs, compute soft mixtures of an image's tokens."""

    __pydantic_config__ = STRICT

    moe_layers: int | str | tuple[Place, ...] = option(
        "last_half",
        "whose MLPs become experts: last<n> (the last n of every second block), every<n>, all, last, last_half, or a "
        "list of indices and patterns",
        alias=("inject_layers", "where"),
    )
    init: Literal["copy", "noise", "partition", "recycle"] = option(  # type: ignore[assignment]
        "copy",
        "how experts start: as copies of the MLP, as copies with noise, as its parts, or recycled: as sub-networks of "
        "units that each draws",
    )
    sampling: Literal["importance", "graph", "uniform", "random"] | None = option(
        None, "init='recycle': how units are drawn; null means importance"
    )
    num_core: Annotated[int, Ge(0), Le(65536)] | None = option(
        None,
        "init='recycle': experts, the first, that are core experts, the others being universal; null means a third",
    )
    core_ratio: Ratio | None = option(None, "init='recycle': width of a core expert over the MLP's; null means 1")
    universal_ratio: Ratio | None = option(None, "init='recycle': that of a universal expert; null means 1/4")
    router: Literal["soft", "sphero"] = option(
        "soft", "Soft MoE's router, or SpheroMoE's: slots by cross-attention with normalised queries"
    )
    router_args: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={"help": "further arguments of the router, for example {'expert_drop': 0.1}", "aliases": ()},
    )
    num_slots: Count | None = option(
        None, "mixtures that each expert computes of an image; null: as capacity_factor says", null=True
    )
    capacity_factor: Factor = option(
        1.0, "slots of all experts together, as a multiple of the tokens, where num_slots is null"
    )
    router_noise: Annotated[float, Ge(0.0), Le(1000.0)] | None = option(
        None, "standard deviation of the logits' noise in training; null: none of soft, 1 / num_experts of sphero"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sampling", "num_core", "core_ratio", "universal_ratio"):
            if getattr(self, name) is not None and self.init != "recycle":
                raise ConfigError(f"{name}={getattr(self, name)!r} is not allowed with init={self.init!r}.")
        for argument, field in (("num_slots", "num_slots"), ("noise_std", "router_noise")):
            if argument in self.router_args:
                raise ConfigError(f"router_args: {argument!r} is the field {field} here, which it would pass by.")
