"""Models of every family for the tests of compression, and images for them."""

from __future__ import annotations

import pytest
import torch

QUICK = ("attention_routing/digits", "multiscale_moe/synthetic")
MODELS = (*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in ("entity_moe/digits", "diff_moe/digits")))


def images_for(model, number):
    """What the model takes, in all its modalities where it has some."""
    size = model.pretrained_cfg["input_size"]
    kinds = (len(model.modalities),) if hasattr(model, "modalities") else ()
    return torch.rand(number, *kinds, *size)


def answer(model, images):
    with torch.no_grad():
        output = model(images)
    return output if isinstance(output, torch.Tensor) else output["logits"]
