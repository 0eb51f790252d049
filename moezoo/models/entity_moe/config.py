"""Configuration of EntityMoE. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Le, Lt

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError

# The bound is a sanity check on configurations that come from elsewhere: nothing that wide is meant.
Count: TypeAlias = Annotated[int, Ge(1), Le(65536)]
Rate: TypeAlias = Annotated[float, Ge(0.0), Lt(1.0)]
Weight: TypeAlias = Annotated[float, Ge(0.0)]
Place: TypeAlias = int | str | tuple[int | str, int]


@dataclass(frozen=True)
class EntityAdapterConfig:
    """One EntityMoE adapter: routed and shared experts, attention over the objects, FFN, zero-initialised residual."""

    __pydantic_config__ = STRICT

    num_experts: Count | tuple[Count, ...] | dict[int, Count] = option(
        4, "routed experts; a list gives one count per injected block, a mapping one per block index"
    )
    num_experts_shared: Annotated[int, Ge(0), Le(1024)] = option(
        2, "always-on experts, each behind its own sigmoid gate"
    )
    expert_k: Count = option(1, "routed experts a token uses", alias="top_k")
    dropout: Rate = option(0.1, "dropout inside the adapter")
    mlp_ratio: Annotated[float, Ge(0.01), Le(64.0)] = option(
        4.0, "hidden width of experts and FFN over the block's width"
    )
    expert_dim: Count | None = option(
        None, "hidden width of an expert; overrides mlp_ratio for the experts (slim experts)"
    )
    expert: str = option("mlp", "kind of experts: mlp, glu, or a registered one")
    activation: Literal["gelu", "relu", "silu"] = option("gelu", "activation of the experts")
    router: str = option("softmax_topk", "registered router")
    router_noise: Weight = option(0.0, "standard deviation of Gaussian noise on the router's logits, in training")
    router_jitter: Rate = option(0.0, "multiplicative jitter of the router's input, in training")
    normalize: bool | None = option(None, "make a token's routing weights sum to one; null means expert_k > 1")
    capacity_factor: Annotated[float, Ge(1e-3)] | None = option(None, "limit on an expert's load; null drops no token")
    num_heads: Count | None = option(None, "heads of the attention over objects; null means one per 64 channels")
    entities: Literal["tokens", "windows", "slots"] = option(
        "tokens", "what an object is: every token, a pooled window of tokens, or a learned slot"
    )
    window_size: Count = option(4, "side of a window of tokens (entities='windows')")
    num_slots: Count = option(16, "learned slots (entities='slots')")
    load_balance_weight: Weight = option(0.01, "weight of the load balancing loss")
    router_z_weight: Weight = option(0.001, "weight of the router z-loss")
    importance_weight: Weight = option(0.0, "weight of the importance loss")
    dense: bool = option(False, "the dense twin: one MLP of equal active width in place of the MoE")

    def __post_init__(self) -> None:
        counts = self.num_experts
        if isinstance(counts, (tuple, dict)) and not counts:
            raise ConfigError("num_experts is empty: give a count, one per injected block, or {block index: count}.")
        smallest = counts if isinstance(counts, int) else min(counts.values() if isinstance(counts, dict) else counts)
        if isinstance(self.expert_k, int) and isinstance(smallest, int) and self.expert_k > smallest:
            raise ConfigError(f"expert_k={self.expert_k} is not allowed: it must be at most num_experts={smallest}.")
        if self.normalize and self.expert_k == 1 and smallest != 1:
            raise ConfigError(
                "normalize=True with expert_k=1 is not allowed: every weight would be 1 and the router would get no "
                "gradient from the task."
            )


@dataclass(frozen=True)
class EntityMoEConfig(EntityAdapterConfig):
    """A timm or transformers backbone with EntityMoE adapters. ``None`` keeps the backbone's own default."""

    __pydantic_config__ = STRICT

    model_name: str = option(
        "vit_base_patch16_224", "timm architecture of the backbone, or hf:user/repo", alias="backbone"
    )
    backbone_tag: str | None = option(
        None, "timm weight tag, for example augreg_in21k, or the Hub's revision of hf:user/repo"
    )
    backbone_args: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={
            "help": "further keyword arguments of the timm model; fields of transformers' configuration",
            "aliases": (),
        },
    )
    num_classes: Annotated[int, Ge(0), Le(1_000_000)] | None = option(1000, "classes; 0 gives pooled features")
    in_chans: Annotated[int, Ge(1), Le(1024)] | None = option(3, "channels of the image")
    img_size: Count | tuple[Count, Count] | None = option(None, "side of the image, or (height, width)")
    drop_rate: Rate | None = option(None, "dropout before the backbone's classifier")
    drop_path_rate: Rate | None = option(None, "stochastic depth of the backbone")
    global_pool: str | None = option(None, "pooling before the classifier, in timm's words")
    inject_layers: int | str | tuple[Place, ...] | None = option(
        None,
        "where adapters go: all, last, last_half, last_stage, layer4, or a list of indices, (stage, block) pairs and "
        "patterns",
    )

    @property
    def backbone(self) -> str:
        """``model_name`` under the name common to all families."""
        return self.model_name
