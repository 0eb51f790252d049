"""A plain ViT of varied size whose MLPs become mixtures of experts: width, depth, experts, k, placement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import timm
from torch import nn

from moezoo.backbones.upcycle import upcycle
from moezoo.search.choosing import Chooser
from moezoo.search.spaces.anynet import plain_images
from moezoo.search.spaces.base import Values
from moezoo.search.spaces.modules import ModuleSpace

BACKBONE = "moezoo_vit_digits"
OPTIONS: dict[str, tuple[Any, ...]] = {
    "embed_dim": (16, 32, 48, 64),
    "depth": (1, 2, 3, 4),
    "mlp_ratio": (1.0, 2.0, 4.0),
    "num_experts": (2, 4, 8),
    "top_k": (1, 2),
    "where": ("last", "last_half", "all"),
}


class UpcycledVit(ModuleSpace):
    """A ViT for small images (``moezoo_vit_digits``: a token for every 2 x 2 pixels), upcycled.

    Args:
        name: As users say it.
        image: (C, H, W).
        dataset: What it is trained on unless said otherwise.
        epochs: Of a short training.
    """

    def __init__(self, name: str, image: tuple[int, int, int], dataset: str, epochs: int):
        self.name, self.image, self.dataset, self.epochs = name, image, dataset, epochs
        self.help = "width, depth, experts, k and placement of an upcycled ViT"
        self.training = {"batch_size": 64, "lr": 3e-3, "label_smoothing": 0.05}
        self.relations = {}

    def fields(self) -> Sequence[str]:
        return tuple(OPTIONS)

    def draw(self, choose: Chooser) -> dict[str, Any] | None:
        return {name: choose.one_of(name, options) for name, options in OPTIONS.items()}

    def build(self, values: Values, image: tuple[int, int, int], num_classes: int) -> nn.Module:
        vit: Any = timm.create_model(
            BACKBONE,
            img_size=image[1:],
            in_chans=image[0],
            num_classes=num_classes,
            **{name: values[name] for name in ("embed_dim", "depth", "mlp_ratio")},
        )
        vit.pretrained_cfg = plain_images(image[0], image[1:], num_classes)
        return upcycle(vit, values["where"], num_experts=values["num_experts"], top_k=values["top_k"], init="noise")
