"""From an image file's picture to the tensor that a model takes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor, nn

from moezoo.errors import ConfigError, UnreadableImage


def image_transform(model: nn.Module) -> Callable[[Any], Tensor]:
    """timm's evaluation transform of the model's ``pretrained_cfg``, for RGB images of Pillow. It can be pickled.

    Raises:
        ConfigError: The model has no ``pretrained_cfg``, or its images have neither 1 nor 3 channels.
    """
    cfg = getattr(model, "pretrained_cfg", None)
    if not cfg:
        raise ConfigError(
            f"{type(model).__name__} has no pretrained_cfg that says how its images are prepared: pass transform="
        )
    return _ImageTransform(dict(cfg))


class _ImageTransform:
    def __init__(self, cfg: dict[str, Any]):
        from timm.data import create_transform, resolve_data_config

        channels, *self.size = cfg["input_size"]
        if channels not in (1, 3):
            raise ConfigError(f"image files have 1 or 3 channels, the model takes in_chans={channels}: pass transform=")
        self.mode = "L" if channels == 1 else "RGB"
        self.prepare = create_transform(**resolve_data_config(pretrained_cfg=cfg), is_training=False)

    def __call__(self, image: Image.Image) -> Tensor:
        # The shorter side is brought to the model's size, the longer one with it, before anything is cut off.
        length = max(image.size) / min(image.size)
        if length * max(self.size) ** 2 > (Image.MAX_IMAGE_PIXELS or math.inf):
            raise UnreadableImage("image", f"is too long for its height: its sides are {image.size}")
        return self.prepare(image if image.mode == self.mode else image.convert(self.mode))
