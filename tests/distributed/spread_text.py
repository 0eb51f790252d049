"""What the ranks of the tests do with the training loop and models that take text, in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from spread_fit import CONFIG

import moezoo
from moezoo.data import CaptionedSplits, ImageTensors, Splits
from moezoo.data.captioned import CaptionedImages
from moezoo.train import fit, seeded

COLOURS = ("red", "green", "blue", "grey")
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
    "mlp_ratio": 1.0,
    "vocab_size": 400,
    "max_text_len": 16,
    "text_embed_dim": 8,
    "dropout": 0.0,
    "initializer_range": 0.2,
    "use_gradient_checkpointing": False,
    # Of one process's pairs: what a larger batch would contrast, several processes do not.
    "contrastive_loss_weight": 0.0,
}
NAMES = {"described": "diff_moe/digits", "retrieval": "diff_moe/shapes", "captioning": "diff_moe/shapes.captioner"}
OWN = {"described": {"num_classes": 4}, "retrieval": {}, "captioning": {"decoder_layers": 1}}


def images(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(count) % 4
    generator = torch.Generator().manual_seed(seed)
    pixels = 0.1 * torch.randn(count, 1, 2, 2, generator=generator, dtype=torch.float64)
    pixels.view(count, 4)[torch.arange(count), labels] += 2
    return pixels.repeat(1, 1, 2, 2), labels


def splits_for(task: str) -> Splits | CaptionedSplits:
    parts = [images(count, seed) for seed, count in enumerate((36, 10, 9))]
    if task == "described":
        return Splits("corners", *(ImageTensors(*part) for part in parts), COLOURS, (0.5,), (0.5,))
    captioned = [
        CaptionedImages(range(len(pixels)), [(f"a {COLOURS[i]} thing",) for i in labels], pixels.__getitem__, read=int)
        for pixels, labels in parts
    ]
    return CaptionedSplits("corners", *captioned, (0.5,), (0.5,))


def fit_text(task: str, settings: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The epochs' losses and scores, the test, and the weights at the end."""
    with seeded(0):
        model = moezoo.create_model(NAMES[task], **{**TINY, **OWN[task], **overrides}).double()
    kind = type(model)
    result = fit(model, splits_for(task), replace(CONFIG, **settings))
    assert type(model) is kind
    assert "encode_image" not in vars(model)
    curves = [(e.loss, e.aux_loss, e.grad_norm, e.val_loss, e.score) for e in result.history]
    test = result.test.to_dict()
    figures = [test[part] for part in ("text", "retrieval", "captions") if part in test]
    return {"curves": curves, "test": figures, "state": dict(model.state_dict())}


def fit_texts(cases: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> list[dict[str, Any]]:
    return [fit_text(*case) for case in cases]
