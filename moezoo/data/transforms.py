"""From a Pillow image to the tensor a model takes, by timm's transforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from timm.data import create_transform
from torch import Tensor

from moezoo.data.options import Augmentation, ImageInput
from moezoo.errors import ConfigError


class Prepare:
    """The channels a model takes, then timm's transform. Instances can be pickled, for workers.

    Args:
        input: What the model takes.
        augmentation: For training images; ``None`` prepares them as timm's validation does: resized, the
            centre kept.

    Raises:
        ConfigError: ``auto_augment`` is no policy of timm's.
    """

    def __init__(self, input: ImageInput, augmentation: Augmentation | None = None):
        self.mode = input.mode
        self.transform = _evaluation(input)
        if augmentation is not None and augmentation.augment:
            self.transform = _training(input, augmentation)

    def __call__(self, image: Image.Image) -> Tensor:
        return self.transform(image if image.mode == self.mode else image.convert(self.mode))


def _evaluation(input: ImageInput) -> Callable[[Image.Image], Tensor]:
    return create_transform(**_common(input), is_training=False, crop_pct=input.crop_pct, crop_mode=input.crop_mode)


def _common(input: ImageInput) -> dict[str, Any]:
    """What training and evaluation share."""
    return {
        "input_size": input.input_size,
        "mean": input.channel_mean,
        "std": input.channel_std,
        "interpolation": input.interpolation,
    }


def _training(input: ImageInput, augmentation: Augmentation) -> Callable[[Image.Image], Tensor]:
    jitter: dict[str, Any] = {"color_jitter": augmentation.color_jitter or None}  # None: no such step at all
    try:
        return create_transform(
            **_common(input),
            is_training=True,
            scale=augmentation.scale,
            ratio=augmentation.ratio,
            hflip=augmentation.hflip,
            **jitter,
            auto_augment=augmentation.auto_augment,
            re_prob=augmentation.re_prob,
            re_mode="pixel",
        )
    except (AssertionError, LookupError, ValueError, TypeError) as error:
        raise ConfigError(
            f"auto_augment={augmentation.auto_augment!r} is not a policy of timm's ({error}): "
            "try 'rand-m9-mstd0.5', 'augmix-m3', 'original' or '3a'."
        ) from error
