"""Configuration of Diff-MoE. No torch here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypeAlias

from annotated_types import Ge, Gt, Le, Len, Lt

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError
from moezoo.models.own_images import OwnImages

# The bounds are sanity checks on configurations that come from elsewhere: nothing that large is meant.
Count: TypeAlias = Annotated[int, Ge(1), Le(65536)]
Layers: TypeAlias = Annotated[int, Ge(1), Le(1024)]
MaybeLayers: TypeAlias = Annotated[int, Ge(0), Le(1024)]
Rate: TypeAlias = Annotated[float, Ge(0.0), Lt(1.0)]
Weight: TypeAlias = Annotated[float, Ge(0.0)]
PerChannel: TypeAlias = Annotated[tuple[float, ...], Len(1, 1024)]


@dataclass(frozen=True)
class DiffMoEConfig(OwnImages):
    """Image encoder, text encoder and their fusion, each a stack of attention and mixtures of experts."""

    __pydantic_config__ = STRICT

    img_size: Count | tuple[Count, Count] = option(28, "side of the image, or (height, width)")
    patch_size: Count = option(4, "side of a patch; divides the image's sides")
    in_channels: Annotated[int, Ge(1), Le(1024)] = option(1, "channels of the image", alias="in_chans")
    embed_dim: Count = option(512, "width of the tokens")
    num_general_experts: Count = option(4, "experts of the general pool", alias="num_experts")
    num_modality_specific_experts: Literal[0, 1, 2] = option(
        2, "0: none; 1: one for image tokens; 2: one for image tokens and one for text tokens"
    )
    top_k: Count = option(2, "general experts that a token uses")
    num_heads: Count = option(8, "heads of every attention")
    img_encoder_layers: Layers = option(6, "blocks of the image encoder")
    text_encoder_layers: MaybeLayers = option(4, "blocks of the text encoder; 0 builds no part for text at all")
    fusion: bool = option(
        True, "let image tokens attend to the text; false leaves two encoders, which only the losses bring together"
    )
    fusion_layers: MaybeLayers = option(3, "blocks behind the gated cross-attention; 0 leaves that alone")
    num_classes: Annotated[int, Ge(0), Le(1_000_000)] = option(10, "classes; 0 builds no head")
    dropout: Rate = option(
        0.2, "dropout of embeddings, attention outputs, experts and before the head", alias="drop_rate"
    )
    drop_path_rate: Rate = option(0.0, "stochastic depth, growing linearly over each stack")
    activation: Literal["gelu", "relu", "silu"] = option("gelu", "activation of the experts")
    layer_norm_eps: Annotated[float, Gt(0.0), Le(1.0)] = option(1e-5, "epsilon of every layer norm")
    initializer_range: Annotated[float, Gt(0.0), Le(10.0)] = option(
        0.02, "standard deviation of the initial weights; routers have their own"
    )
    use_gradient_checkpointing: bool = option(
        True, "recompute every block in the backward pass instead of keeping what it computed"
    )
    vocab_size: Annotated[int, Ge(1), Le(10_000_000)] = option(50000, "token ids of the text")
    max_text_len: Count = option(32, "longest text in tokens")
    text_embed_dim: Count = option(128, "width of the token embeddings, before they are projected to embed_dim")
    mlp_ratio: Annotated[float, Ge(0.01), Le(64.0)] = option(4.0, "hidden width of an expert over embed_dim")
    global_pool: Literal["mean", "cls"] = option(
        "mean", "what the head sees: the mean of the image tokens, or a class token"
    )
    router: str = option("attentive", "registered router of the general experts")
    router_noise: Weight = option(0.0, "standard deviation of Gaussian noise on the router's logits, in training")
    router_dropout: Rate = option(0.0, "dropout of the attentive router's queries, in training")
    capacity_factor: Annotated[float, Ge(1e-3)] | None = option(
        None, "limit on a general expert's load; null drops no token"
    )
    router_z_loss_weight: Weight = option(1e-3, "weight of the z-loss")
    router_balance_loss_weight: Weight = option(1e-2, "weight of the load balancing loss")
    cross_modal_alignment_weight: Weight = option(0.1, "weight of the alignment loss")
    contrastive_loss_weight: Weight = option(0.1, "weight of the contrastive loss")
    z_loss_type: Literal["prob_sq", "logsumexp"] = option(
        "prob_sq", "z-loss: summed squares of mean probabilities, or squared logsumexp of the logits (recommended)"
    )
    balance_loss_type: Literal["kl", "kl_counts", "switch"] = option(
        "kl", "load balancing: KL of the mean probabilities, KL of the token counts, or Switch Transformer's"
    )
    layer_reduction: Literal["sum", "mean"] = option("sum", "how the routers' losses of the layers become one")
    temperature_init: Annotated[float, Ge(0.01), Le(100.0)] = option(
        0.07, "temperature of the contrastive loss at first; it is learned, down to 0.01"
    )
    dynamic_img_size: bool = option(
        False, "take images of any size that patch_size divides; positions are interpolated"
    )
    mean: PerChannel | None = option(None, "mean of the images' channels, of values from 0 to 1; null means 0.5")
    std: PerChannel | None = option(None, "standard deviation of the images' channels; null means 0.5")
    dense: bool = option(False, "the dense twin: one MLP of equal active width in place of each mixture")
    captioner: bool = option(
        False, "build the captioner: the image encoder and a decoder that writes a sentence; no text encoder, no fusion"
    )
    decoder_layers: Layers = option(6, "blocks of the captioner's decoder")

    def __post_init__(self) -> None:
        if self.top_k > self.num_general_experts:
            raise ConfigError(
                f"top_k={self.top_k} is not allowed: it must be at most num_general_experts={self.num_general_experts}."
            )
        if self.embed_dim % self.num_heads:
            fits = [n for n in range(1, min(self.embed_dim, 64) + 1) if self.embed_dim % n == 0]
            raise ConfigError(
                f"num_heads={self.num_heads} is not allowed: it must divide embed_dim={self.embed_dim}. "
                f"Allowed: {', '.join(map(str, fits))}."
            )
        if any(side % self.patch_size for side in self.sides):
            raise ConfigError(
                f"img_size={self.img_size} is not allowed: its sides must be multiples of patch_size={self.patch_size}."
            )
        self.check_std()

    @property
    def has_text(self) -> bool:
        """Whether the parts for text are built."""
        return self.text_encoder_layers > 0
