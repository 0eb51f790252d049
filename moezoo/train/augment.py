"""Mixup and cutmix by timm, for batches of any size."""

from __future__ import annotations

import torch
from timm.data.mixup import Mixup, mixup_target
from torch import Tensor

from moezoo.train.config import TrainingConfig


class Mixer:
    """(B, C, H, W) images and (B,) labels to images, some mixed in place, and (B, classes) soft targets."""

    def __init__(self, config: TrainingConfig, num_classes: int):
        self.smoothing, self.num_classes = config.label_smoothing, num_classes
        self.mixup = Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=config.label_smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        even = len(images) // 2 * 2  # timm mixes an image with its mirror in the batch; an odd last one has none
        alone = mixup_target(labels[even:], self.num_classes, 1.0, self.smoothing)
        if not even:
            return images, alone
        mixed, targets = self.mixup(images[:even], labels[:even])
        return torch.cat([mixed, images[even:]]), torch.cat([targets, alone])


def build_mixer(config: TrainingConfig, num_classes: int) -> Mixer | None:
    """``None`` where nothing is to be mixed."""
    return Mixer(config, num_classes) if config.mixup or config.cutmix else None
