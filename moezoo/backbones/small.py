"""Small backbones for small images, added to timm's registry, so that what works on a timm name works on them."""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.layers import HybridEmbed
from timm.models import VisionTransformer, build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer_hybrid import ConvStem
from torch import nn


def _images(*input_size: int, first_conv: str, num_classes: int = 0) -> dict[str, Any]:
    """What timm is told of a backbone for small images of (channels, height, width), with values from -1 to 1."""
    return {
        "num_classes": num_classes,
        "input_size": input_size,
        "pool_size": None,
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "fixed_input_size": True,
        "mean": (0.5,) * input_size[0],
        "std": (0.5,) * input_size[0],
        "first_conv": first_conv,
        "classifier": "head",
    }


default_cfgs = generate_default_cfgs(
    {
        "moezoo_vit_digits.untrained": _images(1, 16, 16, first_conv="patch_embed.backbone.0.conv", num_classes=10),
        "moezoo_patches_figures.untrained": _images(3, 128, 64, first_conv="patch_embed.proj"),
        "moezoo_vit_figures.untrained": _images(3, 128, 64, first_conv="patch_embed.backbone.0.conv"),
    }
)


def conv_embed(
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    *,
    first_kernel: int = 3,
    in_chans: int = 3,
    embed_dim: int,
    **kwargs: Any,
) -> nn.Module:
    """A convolutional stem in place of the patch projection (Xiao et al. 2021, "Early convolutions")."""
    kwargs.pop("bias", None)
    kwargs.pop("patch_size", None)
    stem = ConvStem(
        in_chans,
        depth=len(strides) + 1,
        channels=(*widths, embed_dim),
        stride=(*strides, 1),
        kernel_size=(first_kernel, *(3,) * (len(strides) - 1), 1),
    )
    return HybridEmbed(stem, in_chans=in_chans, embed_dim=embed_dim, patch_size=1, proj=False, **kwargs)


@register_model
def moezoo_vit_digits(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A 4-block ViT on 16 x 16 grey images: convolutional stem to 8 x 8 tokens, width 64, no class token."""
    args: dict[str, Any] = {
        "img_size": 16,
        "patch_size": 2,
        "embed_dim": 64,
        "depth": 4,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "class_token": False,
        "global_pool": "avg",
        "embed_layer": partial(conv_embed, (32, 64), (1, 2)),
        "num_classes": 10,
        "in_chans": 1,
    }
    return _build("moezoo_vit_digits", pretrained, 3, {**args, **kwargs})


@register_model
def moezoo_vit_figures(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """A 2-block ViT on 128 x 64 images: a stem of 5 x 5 and 3 x 3 convolutions to 16 x 8 tokens, width 64, no class
    token. The stem sees stripes of three pixels, which patches of 8 x 8 pixels would have to learn by heart."""
    args: dict[str, Any] = {
        "img_size": (128, 64),
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 2,
        "num_heads": 4,
        "mlp_ratio": 2.0,
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": False,
        "embed_layer": partial(conv_embed, (16, 32, 64), (2, 2, 2), first_kernel=5),
        "num_classes": 0,
    }
    return _build("moezoo_vit_figures", pretrained, 3, {**args, **kwargs})


@register_model
def moezoo_patches_figures(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
    """Patches of 8 x 8 pixels of 128 x 64 images through one linear layer to 16 x 8 tokens, width 64, without blocks.
    Nothing is mixed or made of a token before what comes behind it sees it: a mean over tokens is one over pixels."""
    args: dict[str, Any] = {
        "img_size": (128, 64),
        "patch_size": 8,
        "embed_dim": 64,
        "depth": 1,
        "block_fn": nn.Identity,  # where features are read off
        "class_token": False,
        "global_pool": "avg",
        "fc_norm": True,
        "num_classes": 0,
    }
    return _build("moezoo_patches_figures", pretrained, 1, {**args, **kwargs})


def _build(name: str, pretrained: bool, maps: int, args: dict[str, Any]) -> VisionTransformer:
    """timm's way, with features of the last ``maps`` blocks."""
    feature_cfg = {"out_indices": maps, "feature_cls": "getter"}
    return build_model_with_cfg(VisionTransformer, name, pretrained, feature_cfg=feature_cfg, **args)
