"""A data set of few images, so that a run of a real model takes a fraction of a second."""

from __future__ import annotations

import torch

from moezoo.data import ImageTensors, PlainInput, Splits, register_dataset

NAME = "few_bright_rows"


@register_dataset(NAME)
def load_few_bright_rows(*, images: int = 20, input: PlainInput = PlainInput()) -> Splits:  # noqa: B008
    """Ten classes that a bright row tells apart.

    Args:
        images: In each part.
        input: What the model takes; its fields are options of the data set.
    """
    generator = torch.Generator().manual_seed(0)
    channels, height, width = input.input_size

    def part() -> ImageTensors:
        labels = torch.arange(images) % 10
        pixels = 0.1 * torch.randn(images, channels, height, width, generator=generator)
        for image, label in zip(pixels, labels, strict=True):
            image[:, label * height // 10] += 1
        return ImageTensors(pixels, labels)

    names = tuple(map(str, range(10)))
    return Splits(NAME, part(), part(), part(), names, input.channel_mean, input.channel_std)
