"""Configuration of the multi-scale mixture of experts for re-identification. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Len, Lt

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.parts import PART_NAME

# The bounds are sanity checks on configurations that come from elsewhere: nothing that large is meant.
Count: TypeAlias = Annotated[int, Ge(1), Le(65536)]
Few: TypeAlias = Annotated[int, Ge(1), Le(256)]
Rate: TypeAlias = Annotated[float, Ge(0.0), Lt(1.0)]
Weight: TypeAlias = Annotated[float, Ge(0.0), Le(1000.0)]


@dataclass(frozen=True)
class MultiScaleMoEConfig:
    """A backbone's tokens in windows of several scales, one expert per scale, for one modality or several."""

    __pydantic_config__ = STRICT

    model_name: str = option(
        "vit_base_patch16_224", "timm architecture of the backbone, or hf:user/repo", alias="backbone"
    )
    backbone_tag: str | None = option(None, "timm weight tag, or the Hub's revision of hf:user/repo")
    backbone_args: dict[str, Any] = dataclasses.field(
        default_factory=dict,
        metadata={
            "help": "further keyword arguments of the timm model; fields of transformers' configuration",
            "aliases": (),
        },
    )
    img_size: Count | tuple[Count, Count] = option((256, 128), "side of the image, or (height, width)")
    in_chans: Annotated[int, Ge(1), Le(1024)] = option(3, "channels of an image of any modality", alias="in_channels")
    num_classes: Annotated[int, Ge(0), Le(1_000_000)] = option(
        0, "identities to learn; 0 builds no classifier", alias="num_identities"
    )
    drop_rate: Rate | None = option(None, "dropout of the backbone's global feature")
    drop_path_rate: Rate | None = option(None, "stochastic depth of the backbone")
    global_pool: str | None = option(None, "pooling of the backbone's global feature, in timm's words")
    modalities: Annotated[tuple[str, ...], Len(1, 64)] = option(
        ("RGB", "NIR", "TIR"), "names of the images of one sighting, in their order"
    )
    shared_backbone: bool = option(True, "one backbone for all modalities; false builds one for each")
    feat_dim: Count = option(512, "width of a modality's feature")
    scales: Annotated[tuple[Count, ...], Len(1, 64)] = option(
        (4, 8, 16), "sides of the windows in tokens, one expert each; clipped to the grid of tokens"
    )
    window_mode: Literal["2d", "1d"] = option(
        "2d", "windows of s x s tokens on the grid, or runs of s tokens row by row"
    )
    window_op: Literal["pool", "depthwise", "conv"] = option(
        "depthwise", "what becomes of a window: its mean, a depthwise and a pointwise convolution, or a full one"
    )
    fusion: Literal["moe", "mlp", "concat", "mean", "attention"] = option(
        "moe", "how the scales become one vector: experts behind a gate, or a control of as many parameters"
    )
    structure: Literal["flat", "hierarchical", "cross_modal"] = option(
        "flat",
        "one fusion of scales for every modality; a gate over modalities above gates over scales; or a further "
        "mixture of one expert per modality",
    )
    hidden_dim: Count = option(1024, "hidden width of an expert")
    temperature: Annotated[float, Gt(0.0), Le(1000.0)] = option(
        1.0, "of the gate: below 1 sharpens the weights, above 1 evens them out"
    )
    num_heads: Few = option(1, "gates whose weights are averaged", alias="gate_num_heads")
    gate_layers: Annotated[int, Ge(1), Le(3)] = option(2, "layers of the gate")
    top_k: Few | None = option(None, "in evaluation only the best k scales are computed; null computes all", null=True)
    expert_threshold: Rate = option(
        0.0, "in evaluation only scales with at least this weight are computed; the best always is"
    )
    residual_weight: Annotated[float, Ge(0.0), Le(100.0)] = option(
        1.0, "how much of the scales' own features is added to what the experts give"
    )
    final_fusion: bool = option(True, "a last linear layer behind the weighted sum", alias="use_final_fusion")
    dropout: Rate = option(0.1, "dropout in experts and gate")
    balance_weight: Weight = option(0.01, "weight of the loss that spreads the gate's use over the scales")
    balance_target: Annotated[float, Gt(0.0), Le(1.0)] | None = option(
        None, "use of every scale that this loss asks for; null means equal shares", null=True
    )
    sparsity_weight: Weight = option(0.001, "weight of the loss that makes each sample's gate decide")
    diversity_weight: Weight = option(0.01, "weight of the loss that keeps the experts' outputs from being alike")
    neck_feature: Literal["after", "before"] = option(
        "after", "which feature is compared: behind the batch normalisation of the neck, or before it"
    )
    dense: bool = option(False, "the dense twin: an MLP of as many FLOPs for all scales in place of the experts")

    def __post_init__(self) -> None:
        for name in self.modalities:
            if not PART_NAME.fullmatch(name):
                raise ConfigError(f"modalities: {name!r} is not allowed: a name is letters, digits, '_' or '-'.")
        for field in ("modalities", "scales"):
            values = getattr(self, field)
            if len(set(values)) != len(values):
                raise ConfigError(f"{field}={list(values)} is not allowed: one is named twice.")
        if self.top_k is not None and self.top_k > len(self.scales):
            raise ConfigError(f"top_k={self.top_k} is not allowed: there are {len(self.scales)} scales.")
        if self.structure != "flat" and len(self.modalities) == 1:
            raise ConfigError(
                f"structure={self.structure!r} is not allowed with the one modality {self.modalities[0]}."
            )
        if self.structure != "flat" and self.dense:
            raise ConfigError(
                f"dense=True is not allowed with structure={self.structure!r}: the dense twin is that of 'flat'."
            )
        if self.structure == "hierarchical" and self.fusion != "moe":
            raise ConfigError(
                f"fusion={self.fusion!r} is not allowed with structure='hierarchical', whose scales have experts."
            )
        if self.dense and self.fusion != "moe":
            raise ConfigError(
                f"dense=True is not allowed with fusion={self.fusion!r}: the dense twin is that of 'moe'."
            )

    @property
    def backbone(self) -> str:
        """``model_name`` under the name common to all families."""
        return self.model_name

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size

    @property
    def num_modalities(self) -> int:
        """M."""
        return len(self.modalities)

    @property
    def embed_dim(self) -> int:
        """Width of the feature of all modalities together."""
        return self.num_modalities * self.feat_dim

    def of_backbone(self) -> MultiScaleMoEConfig:
        """The same for the backbone alone, which has no classifier."""
        return dataclasses.replace(self, num_classes=0)
