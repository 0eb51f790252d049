"""What tasks on images with captions share: an image and one of its captions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from moezoo.data import CaptionedSplits
from moezoo.errors import ConfigError, DataError
from moezoo.train.batches import describe
from moezoo.train.config import TrainingConfig
from moezoo.train.tasks.base import Task
from moezoo.train.tasks.words import Words


class Captioned(NamedTuple):
    """A training batch."""

    images: Tensor
    """(B, C, H, W)."""
    text: Tensor
    """(B, L) int64."""
    mask: Tensor
    """(B, L) bool, true where a token is."""


class CaptionedTask(Task):
    """Each image goes in with one of its captions at random.

    With ``text="shuffled"`` it is one of another image, which is drawn anew each time.
    """

    def __init__(self, model: nn.Module, splits: CaptionedSplits, config: TrainingConfig):
        if config.text == "none":
            raise ConfigError(
                f"text='none' leaves nothing to learn on {splits.name!r}: {self.name} needs its captions."
            )
        if config.mixup or config.cutmix:
            raise ConfigError(
                f"mixup={config.mixup} and cutmix={config.cutmix} do not go with {self.name}: no caption is about a "
                "mixed image. Set both to 0."
            )
        super().__init__(model, splits, config)
        self.shuffled = config.text == "shuffled"
        train = splits.train
        self.words = Words(model, lambda: [sentence for i in range(len(train)) for sentence in train.captions(i)])

    def item(self, dataset: Any, index: int, item: Any) -> Any:
        image, captions = item
        if self.shuffled:
            captions = dataset.captions((index + random.randrange(1, max(len(dataset), 2))) % len(dataset))
        if isinstance(captions, str) or not captions:
            raise DataError(f"{describe(dataset, index)} of the training data has no captions, but {captions!r}")
        return image, self.words.ids(random.choice(captions))

    def collate(self, items: Sequence[Any]) -> Captioned:
        images, rows = zip(*items, strict=True)
        return Captioned(torch.stack(images), *self.words.tokenizer.pad(rows))

    def forward(self, module: nn.Module, content: Captioned) -> Any:
        return module(content.images, content.text, content.mask)

    def facts(self) -> dict[str, Any]:
        return {**super().facts(), **self.words.facts()}
