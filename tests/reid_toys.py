"""A small re-identification set in memory, and a small model for it with everything random in it."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from moezoo.data import ReidSplits
from moezoo.data.reid.splits import ReidImages, ReidPart, Sighting
from moezoo.errors import UnreadableImage
from moezoo.moe import MoELayer
from moezoo.train import TrainingConfig, seeded

MODALITIES = ("RGB", "NIR")


def read(item):
    """(M, 1, 2, 2): what the identity looks like, a camera's brightness, noise. Item ``(identity, camera, number)``."""
    identity, camera, number = item
    if number < 0:
        raise UnreadableImage(f"picture-{identity}.jpg", "is cut off")
    own = np.random.default_rng(identity).normal(size=(2, 1, 2, 2))
    noise = np.random.default_rng([identity, camera, number + 1]).normal(size=(2, 1, 2, 2))
    return torch.tensor(own + 0.3 * camera + 0.8 * noise, dtype=torch.float32)


def jitter(image):
    """A change that python, numpy and torch have a part in."""
    return image + 0.05 * (random.random() + np.random.rand() + torch.randn(image.shape))


def plain(image):
    return image


def images(identities, *, cameras=2, number=3, train=False, broken=()):
    """``broken`` names places among the training sightings that cannot be read."""
    sightings = [
        Sighting((i, c, -1 if train and place in broken else n), i, c)
        for place, (i, c, n) in enumerate((i, c, n) for i in identities for c in range(cameras) for n in range(number))
    ]
    return ReidImages(
        sightings, jitter if train else plain, relabel=train, read=read, skip_unreadable=train, name_of=str
    )


def reid_splits(*, val=4, train=7, broken=()):
    """Identities 100, 101, … to learn, others to choose on and to test."""
    held_out = [
        (images(range(first, first + count), number=1), images(range(first, first + count), number=2))
        for first, count in ((200, val), (300, 5))
    ]
    return ReidSplits(
        "toy sightings",
        images(range(100, 100 + train), train=True, broken=broken),
        *held_out[1],
        modalities=MODALITIES,
        mean=(0.5,),
        std=(0.5,),
        val=ReidPart.of(*held_out[0]) if val else None,
    )


class ReidToy(nn.Module):
    """Eight pixels, an MoE, a batch normalisation and a classifier for both modalities together and for the first."""

    modalities = MODALITIES

    def __init__(self, classes=7, weights=None):
        super().__init__()
        self.num_classes = classes
        self.stem = nn.Linear(8, 8)
        self.moe = MoELayer(8, num_experts=4, hidden_dim=8, aux_weights=weights)
        self.drop = nn.Dropout(0.1)
        self.neck = nn.BatchNorm1d(8)
        self.heads = nn.ModuleList([nn.Linear(8, classes, bias=False), nn.Linear(4, classes, bias=False)])

    def forward(self, images, present=None):
        x = self.stem(images.flatten(1))
        x = self.drop(x + self.moe(x))
        if not self.training:
            return self.neck(x)
        return [(self.heads[0](self.neck(x)), x), (self.heads[1](x[:, :4]), x[:, :4])]

    def reset_classifier(self, num_classes):
        self.num_classes = num_classes


def reid_toy(seed=0, **options):
    with seeded(seed):
        return ReidToy(**options)


def reid_config(**changes):
    defaults = {"epochs": 3, "batch_size": 8, "instances": 4, "lr": 0.02, "warmup_epochs": 1.0, "device": "cpu"}
    return TrainingConfig(**{**defaults, **changes})
