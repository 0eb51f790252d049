"""Registered names of the Diff-MoE family. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.models.diff_moe.config import DiffMoEConfig
from moezoo.registry import register_model

DENSE = {"dense": {"dense": True}}
IMAGE_ONLY = {"text_encoder_layers": 0}
"""The document's single-modal classifier: nothing for text is built."""
CIFAR: dict[str, Any] = {"mean": (0.4914, 0.4822, 0.4465), "std": (0.247, 0.2435, 0.2616)}
SMALL: dict[str, Any] = {
    "num_heads": 4,
    "initializer_range": 0.1,
    "fusion_layers": 1,
    "mlp_ratio": 2.0,
    "vocab_size": 1024,
    "use_gradient_checkpointing": False,
}
"""For data sets that are learnt on a laptop."""


@register_model(variants={**DENSE, "image_only": {**IMAGE_ONLY, "top_k": 1}})
def diff_moe_cifar10() -> DiffMoEConfig:
    """The document's model on CIFAR-10's 32 x 32 colour images."""
    return DiffMoEConfig(img_size=32, in_channels=3, **CIFAR)


@register_model(variants=DENSE)
def diff_moe_cifar100() -> DiffMoEConfig:
    """The document's model on CIFAR-100."""
    return DiffMoEConfig(
        img_size=32, in_channels=3, num_classes=100, mean=(0.5071, 0.4865, 0.4409), std=(0.2673, 0.2564, 0.2762)
    )


@register_model(
    variants={**DENSE, "image_only": {**IMAGE_ONLY, "embed_dim": 256, "num_heads": 4, "img_encoder_layers": 4}}
)
def diff_moe_fashion_mnist() -> DiffMoEConfig:
    """The document's model as its table has it, on Fashion-MNIST's 28 x 28 grey images."""
    return DiffMoEConfig(mean=(0.286,), std=(0.353,))


@register_model(variants={**DENSE, "captioner": {"captioner": True}})
def diff_moe_flickr8k() -> DiffMoEConfig:
    """Photographs of 224 x 224 in patches of 16, and sentences that are to be found by them, or they by those.

    A fusion would see each sentence with its own image alone, and no loss would ask it anything: there is none.
    """
    return DiffMoEConfig(
        img_size=224,
        patch_size=16,
        in_channels=3,
        fusion=False,
        num_classes=0,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    )


@register_model(variants={**DENSE, "image_only": IMAGE_ONLY})
def diff_moe_digits() -> DiffMoEConfig:
    """Scikit-learn's digits, with sentences. Trains in a minute or two on two cores."""
    return DiffMoEConfig(
        img_size=16,
        embed_dim=64,
        img_encoder_layers=3,
        text_encoder_layers=1,
        dropout=0.0,
        text_embed_dim=32,
        **SMALL,
    )


@register_model(variants={**DENSE, "captioner": {"captioner": True, "decoder_layers": 2}})
def diff_moe_shapes() -> DiffMoEConfig:
    """The generated coloured shapes, 64 x 64, and their sentences; two encoders, as of Flickr8k."""
    return DiffMoEConfig(
        img_size=64,
        patch_size=8,
        in_channels=3,
        embed_dim=96,
        img_encoder_layers=3,
        text_encoder_layers=2,
        fusion=False,
        num_classes=0,
        dropout=0.0,
        text_embed_dim=64,
        **SMALL,
    )
