"""timm's ViT with MoE layers in the place of some MLPs, computed as the JAX reference of V-MoE computes it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from timm.layers import GELUTanh, LayerNorm, Mlp
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from moezoo.errors import InputError
from moezoo.models.moe_vit.block import MoEViTBlock, TanhLinear
from moezoo.models.moe_vit.config import MoEViTConfig
from moezoo.models.moe_vit.output import MoEViTOutput, router_stats
from moezoo.models.moe_vit.positions import resize_positions, sincos2d
from moezoo.models.moe_vit.tokens import TokenLayout
from moezoo.moe import MoELayer, record_routing
from moezoo.moe.aux import mark_root

EPSILON = 1e-6


class MoEViT(VisionTransformer):
    """A ViT with experts; everything that timm's has works as there.

    Beside timm's own parts: ``blocks[i].mlp`` is the MoE layer where there is one, ``pre_logits`` a layer with tanh
    before the head where the configuration has it. Layer norms have eps 1e-6, GELU is the tanh one, the final norm
    stands before pooling, norms of queries and keys have no bias.

    Args:
        config: The model's.
        make_mlp: Makes what stands in the place of the MLP in each block of ``config.placement``.
    """

    def __init__(self, config: MoEViTConfig, make_mlp: Callable[[], nn.Module]):
        norm_layer = partial(LayerNorm, eps=EPSILON)
        super().__init__(
            img_size=config.sides,
            patch_size=config.patch,
            in_chans=config.in_channels,
            num_classes=config.num_classes,
            # timm knows no first token without a class token, until it pools
            global_pool="avg" if config.classifier == "first" else config.global_pool,  # type: ignore[arg-type]
            embed_dim=config.hidden_size,
            depth=config.num_layers,
            num_heads=config.num_heads,
            mlp_ratio=_ratio(config.mlp_dim, config.hidden_size),
            class_token=config.classifier == "token",
            pos_embed="learn" if config.position == "learned" else "none",
            fc_norm=False,
            dynamic_img_size=config.position != "learned",
            pos_drop_rate=config.dropout,
            proj_drop_rate=config.dropout,
            attn_drop_rate=config.attention_dropout,
            drop_path_rate=config.drop_path_rate,
            norm_layer=norm_layer,
            act_layer=GELUTanh,
            weight_init="skip",
            block_fn=MoEViTBlock,
        )
        self.global_pool = config.global_pool  # type: ignore[assignment]
        self.patch_embed.strict_img_size = False  # what counts is the number of patches
        self.config = config
        self.layout = TokenLayout(self.patch_embed.grid_size, self.num_prefix_tokens)
        blocks: list[Any] = list(self.blocks)
        for block in blocks:
            block.layout = self.layout
        for i in config.placement:
            blocks[i].mlp = make_mlp()
            if isinstance(blocks[i].mlp, MoELayer) and config.experts_dropout:
                blocks[i].ls2 = nn.Dropout(config.experts_dropout)
        if config.qk_norm:
            for attention in [*(block.attn for block in blocks), *filter(None, [self.attn_pool])]:
                for name in ("q_norm", "k_norm"):
                    setattr(attention, name, nn.LayerNorm(attention.head_dim, eps=EPSILON, bias=False))
        self.pre_logits: nn.Module = nn.Identity()
        if config.representation_size is not None:
            self.head_hidden_size = config.representation_size
            self.pre_logits = TanhLinear(config.hidden_size, config.representation_size)
        self.init_weights("jax", needs_reset=False)
        self.reset_classifier(config.num_classes)
        self.pretrained_cfg = self.default_cfg = config.data_description(
            fixed_input_size=not self.dynamic_img_size,
            first_conv="patch_embed.proj",
            classifier="head",
        )
        mark_root(self)

    def forward(  # type: ignore[override]
        self, x: Tensor, *, return_stats: bool = False, **attention: Any
    ) -> Tensor | MoEViTOutput:
        """Classify images.

        Args:
            x: (B, C, H, W).
            return_stats: Answer a mapping, with where the tokens went.
            attention: timm's ``attn_mask`` and ``is_causal``.

        Returns:
            (B, classes) logits, or a mapping of them and of what the routers did.
        """
        if not return_stats:
            return self.forward_head(self.forward_features(x, **attention))
        with record_routing(self) as records:
            logits = self.forward_head(self.forward_features(x, **attention))
        return MoEViTOutput(logits=logits, router_stats=router_stats(records))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, N, D) of ``forward_features`` to logits, or with ``pre_logits`` to what they are made of."""
        x = self.pre_logits(self.fc_norm(self.pool(x)))
        x = self.head_drop(x)
        return x if pre_logits else self.head(x)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier for ``num_classes`` classes, or none for 0; the layer with tanh stays."""
        super().reset_classifier(num_classes, global_pool)
        if not num_classes:
            return
        head = nn.Linear(self.head_hidden_size, num_classes).to(self.patch_embed.proj.weight)
        nn.init.trunc_normal_(head.weight, std=0.02)
        nn.init.zeros_(head.bias)
        self.head = head.train(self.training)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Leave what intermediate features need: blocks up to the last index."""
        taken = super().prune_intermediate_layers(indices, prune_norm, prune_head)
        if prune_head:
            self.pre_logits = nn.Identity()
        return taken

    def set_input_size(
        self, img_size: tuple[int, int] | None = None, patch_size: tuple[int, int] | None = None
    ) -> None:
        """Take images of another size. A learned table stays if it has as many places, and else is resized; groups
        hold as many images as before, unless the configuration says how many tokens they hold."""
        old = self.patch_embed.grid_size
        positions = self.pos_embed
        super().set_input_size(img_size=img_size, patch_size=patch_size)
        self.layout.grid = self.patch_embed.grid_size
        before, after = (rows * columns + self.num_prefix_tokens for rows, columns in (old, self.layout.grid))
        for layer in self.modules():
            if isinstance(layer, MoELayer) and layer.router.group_size and self.config.group_size is None:
                layer.router.group_size = layer.router.group_size // before * after
        if positions is not None:  # timm has resized it in another way
            table = resize_positions(positions.detach(), old, self.layout.grid, self.num_prefix_tokens)
            self.pos_embed = nn.Parameter(table, requires_grad=positions.requires_grad)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        """Positions, the class token, and a soft router's scale."""
        return {"pos_embed", "cls_token", *(n for n, _ in self.named_parameters() if n.endswith("router.scale"))}

    def _pos_embed(self, x: Tensor) -> Tensor:
        grid = (x.shape[1], x.shape[2]) if x.dim() == 4 else self.patch_embed.grid_size
        x = x.flatten(1, 2) if x.dim() == 4 else x
        if self.config.position == "sincos2d":
            x = x + sincos2d(grid, self.embed_dim, self.config.position_temperature, x)
        if self.cls_token is not None:
            x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1)
        if self.pos_embed is not None:
            if x.shape[1] != self.pos_embed.shape[1]:
                raise InputError(
                    f"images must be of {self.patch_embed.img_size} pixels, or have as many patches: these have "
                    f"{x.shape[1] - self.num_prefix_tokens}, and there are {self.layout.grid[0] * self.layout.grid[1]} "
                    "learned positions; img_size= builds a model for other images, and set_input_size resizes these."
                )
            x = x + self.pos_embed
        return self.pos_drop(x)


def dense_mlp(config: MoEViTConfig, width: int) -> Mlp:
    """The MLP of a dense twin."""
    return Mlp(config.hidden_size, width, act_layer=GELUTanh, drop=config.experts_dropout)


def _ratio(hidden: int, dim: int) -> float:
    """The ratio of which timm makes ``hidden`` again by rounding down."""
    return (hidden + 0.5) / dim
