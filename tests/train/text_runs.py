"""What the tests of training with text share: tiny models and data whose images and sentences belong together."""

from __future__ import annotations

import torch
from train_toys import config

import moezoo
from moezoo.data import CaptionedSplits, ImageTensors, Splits
from moezoo.data.captioned import CaptionedImages
from moezoo.train import seeded

TINY = {
    "img_size": 4,
    "patch_size": 2,
    "in_channels": 1,
    "embed_dim": 16,
    "num_heads": 2,
    "img_encoder_layers": 1,
    "text_encoder_layers": 1,
    "fusion_layers": 1,
    "num_general_experts": 2,
    "top_k": 1,
    "mlp_ratio": 1.0,
    "vocab_size": 600,
    "max_text_len": 16,
    "text_embed_dim": 8,
    "dropout": 0.1,
    "initializer_range": 0.2,
    "use_gradient_checkpointing": False,
}
COLOURS = ("red", "green", "blue", "grey")


def tiny(name: str, **overrides):
    """The same weights whenever it is called."""
    with seeded(0):
        return moezoo.create_model(name, **{**TINY, **overrides})


def text_config(**changes):
    return config(**{"epochs": 2, "batch_size": 8, "lr": 0.01, **changes})


def bright(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose patches all have the same bright corner, and which corner."""
    labels = torch.arange(count) % 4
    images = 0.1 * torch.randn(count, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    images.view(count, 4)[torch.arange(count), labels] += 2
    return images.repeat(1, 1, 2, 2), labels


def labelled(train: int = 36) -> Splits:
    parts = [ImageTensors(*bright(count, seed)) for seed, count in enumerate((train, 16, 16))]
    return Splits("corners", *parts, COLOURS, (0.5,), (0.5,))


def captioned(train: int = 36, captions: int = 2) -> CaptionedSplits:
    """One or two sentences an image, which say by a colour which corner is bright."""

    def part(count: int, seed: int) -> CaptionedImages:
        images, labels = bright(count, seed)
        said = [(f"a {COLOURS[i]} thing", f"there is something that is {COLOURS[i]}")[:captions] for i in labels]
        return CaptionedImages(range(count), said, images.__getitem__, read=int)

    return CaptionedSplits("corners", part(train, 0), part(16, 1), part(16, 2), (0.5,), (0.5,))


RUNS = {
    "described": ("diff_moe/digits", {"num_classes": 4}, labelled),
    "retrieval": ("diff_moe/shapes", {}, captioned),
    "captioning": ("diff_moe/shapes.captioner", {"decoder_layers": 1}, captioned),
}
"""Task to model, its overrides, and data."""


def run_of(task: str, **overrides):
    """A fresh model and its data."""
    name, own, splits = RUNS[task]
    return tiny(name, **{**own, **overrides}), splits()
