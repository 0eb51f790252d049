"""What the configurations of ViTs with MoE layers share. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Len, Lt

from moezoo.backbones.placement import is_placement, placed_blocks
from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.models.own_images import OwnImages
from moezoo.names import did_you_mean

# The bounds are sanity checks on configurations that come from elsewhere: nothing that large is meant.
Count: TypeAlias = Annotated[int, Ge(1), Le(65536)]
Rate: TypeAlias = Annotated[float, Ge(0.0), Lt(1.0)]
Weight: TypeAlias = Annotated[float, Ge(0.0), Le(1000.0)]
Factor: TypeAlias = Annotated[float, Gt(0.0), Le(1000.0)]
PerChannel: TypeAlias = Annotated[tuple[float, ...], Len(1, 1024)]
Classifier: TypeAlias = Literal["token", "gap", "map", "first", "avg"]

WORDS = ("all", "last_half", "last<n>", "every<n>")
DIGITS: dict[str, Any] = {
    "img_size": 16,
    "patch_size": 4,
    "in_channels": 1,
    "num_classes": 10,
    "hidden_size": 64,
    "num_layers": 4,
    "num_heads": 4,
    "mlp_dim": 128,
}
"""A small model for scikit-learn's digits, whatever its experts."""
TIMM_POOLS = {"gap": "avg", "first": "token"}


@dataclass(frozen=True)
class MoEViTConfig(OwnImages):
    """A pre-norm ViT; the MLPs of the blocks in ``moe_layers`` are experts."""

    __pydantic_config__ = STRICT

    img_size: Count | tuple[Count, Count] = option(224, "side of the image, or (height, width)")
    patch_size: Count | tuple[Count, Count] = option(16, "side of a patch, or (height, width); divides the image")
    in_channels: Annotated[int, Ge(1), Le(1024)] = option(3, "channels of the image", alias="in_chans")
    num_classes: Annotated[int, Ge(0), Le(1_000_000)] = option(1000, "classes; 0 builds no classifier")
    hidden_size: Count = option(768, "width of a token", alias="embed_dim")
    num_layers: Annotated[int, Ge(1), Le(1024)] = option(12, "blocks", alias="depth")
    num_heads: Count = option(12, "heads of attention; divide the width")
    mlp_dim: Count = option(3072, "hidden width of an MLP")
    classifier: Classifier = option(
        "token",
        "what the head sees: a class token, the mean of the tokens (gap; timm's avg), a learned query's attention to "
        "them (map), or the first patch (first)",
        alias="global_pool",
    )
    representation_size: Count | None = option(
        None, "width of a layer with tanh before the head; null has none", null=True
    )
    position: Literal["learned", "sincos2d", "none"] = option(
        "learned", "positions: a learned table, sines and cosines of rows and columns for any image size, or none"
    )
    position_temperature: Annotated[float, Gt(1.0), Le(1e9)] = option(
        10_000.0, "longest wavelength of sincos2d, over 2 pi"
    )
    qk_norm: bool = option(False, "layer norm without bias of queries and keys", alias="attention_qk_norm")
    moe_layers: tuple[Annotated[int, Ge(0)], ...] | str = option(
        "every2",
        "blocks with experts: last<n> (the last n of every second block), every<n>, last_half, all, or a list of "
        "indices from 0",
        alias=("layers", "inject_layers"),
    )
    num_experts: Count = option(32, "experts of an MoE layer")
    expert_dim: Count | None = option(None, "hidden width of an expert; null means that of an MLP", null=True)
    group_size: Count | None = option(
        None, "tokens that share the experts' capacity, consecutive in the batch; null: see the family", null=True
    )
    dispatch_dtype: Literal["bfloat16"] | None = option(
        None, "what the experts get and give is rounded to this type; null rounds nothing", null=True
    )
    dropout: Rate = option(
        0.0, "dropout of tokens, attention's results and MLPs, in training", alias=("drop_rate", "dropout_rate")
    )
    attention_dropout: Rate = option(0.0, "dropout of attention's weights", alias="attention_dropout_rate")
    expert_dropout: Rate | None = option(
        None, "dropout on the experts' hidden units and on what an MoE layer gives; null means that of the MLPs"
    )
    drop_path_rate: Rate = option(0.0, "stochastic depth at the last block, from 0 at the first")
    dense: bool = option(
        False, "the dense twin: for each MoE layer an MLP as wide as the layer's FLOPs per image allow"
    )
    mean: PerChannel | None = option(None, "mean of the images' channels, of values from 0 to 1; null means 0.5")
    std: PerChannel | None = option(None, "standard deviation of the images' channels; null means 0.5")

    def __post_init__(self) -> None:
        if self.classifier == "avg":
            object.__setattr__(self, "classifier", "gap")
        for axis, side, patch in zip(("height", "width"), self.sides, self.patch, strict=True):
            if side % patch:
                fits = [str(n) for n in range(1, side + 1) if side % n == 0]
                raise ConfigError(
                    f"patch_size={self.patch_size} is not allowed: patches must divide the image's {axis} "
                    f"(img_size={self.img_size}). Allowed: {', '.join(fits)}."
                )
        if self.hidden_size % self.num_heads:
            raise ConfigError(
                f"num_heads={self.num_heads} is not allowed: heads must divide hidden_size={self.hidden_size}."
            )
        if self.position == "sincos2d" and (self.hidden_size % 4 or self.hidden_size < 8):
            raise ConfigError(
                f"position='sincos2d' is not allowed with hidden_size={self.hidden_size}: it takes a multiple of 4, "
                "from 8."
            )
        self.check_std()
        _ = self.placement  # a word or an index that does not fit

    @property
    def embed_dim(self) -> int:
        """``hidden_size`` under timm's name."""
        return self.hidden_size

    @property
    def patch(self) -> tuple[int, int]:
        """(height, width) of a patch."""
        return (self.patch_size, self.patch_size) if isinstance(self.patch_size, int) else self.patch_size

    @property
    def num_tokens(self) -> int:
        """Tokens of an image of ``img_size``, the class token included."""
        (height, width), (down, right) = self.sides, self.patch
        return (height // down) * (width // right) + (self.classifier == "token")

    @property
    def placement(self) -> tuple[int, ...]:
        """The blocks with MoE layers, ascending."""
        word, depth = self.moe_layers, self.num_layers
        if isinstance(word, str):
            if word in ("all", "last_half"):
                return tuple(range(depth // 2 if word == "last_half" else 0, depth))
            if not is_placement(word):
                raise ConfigError(
                    f"moe_layers={word!r} is not allowed.{did_you_mean(word, ('all', 'last_half', 'last2', 'every2'))} "
                    f"Allowed: {', '.join(WORDS)}, or a list of indices."
                )
            return placed_blocks(word, depth)
        if len(set(word)) < len(word) or any(i >= depth for i in word):
            raise ConfigError(
                f"moe_layers={list(word)} is not allowed: it must be distinct indices from 0 to {depth - 1}."
            )
        return tuple(sorted(word))

    @property
    def expert_width(self) -> int:
        """Hidden width of an expert."""
        return self.mlp_dim if self.expert_dim is None else self.expert_dim

    @property
    def experts_dropout(self) -> float:
        """``expert_dropout``, or that of the MLPs."""
        return self.dropout if self.expert_dropout is None else self.expert_dropout

    @property
    def global_pool(self) -> str:
        """``classifier`` in timm's words."""
        return TIMM_POOLS.get(self.classifier, self.classifier)
