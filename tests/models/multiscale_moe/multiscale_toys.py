"""A multi-scale model small enough for every test, and sightings for it."""

import torch

import moezoo
from moezoo.backbones.inputs import example_images

TINY = {
    "model_name": "moezoo_vit_figures",
    "img_size": (32, 16),
    "backbone_args": {"embed_dim": 16, "num_heads": 2},
    "num_classes": 5,
    "feat_dim": 24,
    "scales": (1, 4),
    "hidden_dim": 32,
    "modalities": ("RGB", "NIR"),
    "dropout": 0.0,
}


def small(name="multiscale_moe/synthetic", **more):
    """A grid of 4 x 2 tokens, two modalities, five identities."""
    torch.manual_seed(0)
    return moezoo.create_model(name, **{**TINY, **more})


def sightings(model, number=3, seed=1):
    return example_images(model, number, seed)
