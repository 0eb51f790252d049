"""A space of tiny models on a data set of few images, and one whose scores are known without any training."""

from __future__ import annotations

import itertools
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from moezoo.data import ImageTensors, PlainInput, Splits, register_dataset
from moezoo.parts import datasets
from moezoo.search import register_space
from moezoo.search.spaces import ModuleSpace

sys.path.append(str(Path(__file__).parents[1]))

DATA, SPACE, OTHER = "rows_to_find", "tiny", "tiny_too"


class Untouchable(ImageTensors):
    """Test images that nobody is to look at while designs are chosen."""

    looked_at = 0

    def __getitem__(self, index):
        type(self).looked_at += 1
        return super().__getitem__(index)


if DATA not in datasets:

    @register_dataset(DATA)
    def load_rows(*, images: int = 24, input: PlainInput = PlainInput()) -> Splits:  # noqa: B008
        """Four classes that a bright row tells apart.

        Args:
            images: In each part.
            input: What the model takes; its fields are options of the data set.
        """
        generator = torch.Generator().manual_seed(0)
        channels, height, width = input.input_size

        def part(kind=ImageTensors):
            labels = torch.arange(images) % 4
            pixels = 0.5 * torch.randn(images, channels, height, width, generator=generator)
            for image, label in zip(pixels, labels, strict=True):
                image[:, label * height // 4] += 1
            return kind(pixels, labels)

        names = ("a", "b", "c", "d")
        return Splits(DATA, part(), part(), part(Untouchable), names, input.channel_mean, input.channel_std)


class Net(nn.Module):
    """An MLP."""

    def __init__(self, image, width, depth, act, num_classes):
        super().__init__()
        sizes = [image[0] * image[1] * image[2], *[width] * depth]
        layers = [nn.Flatten()]
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), act()]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], num_classes))
        self.num_classes = num_classes
        self.pretrained_cfg = {"input_size": image, "mean": (0.5,), "std": (0.5,)}

    def forward(self, x):
        return self.body(x)


class Tiny(ModuleSpace):
    """Width, depth and activation of an MLP."""

    image, dataset, epochs, help = (1, 8, 8), DATA, 2, "MLPs"
    training = {"batch_size": 8, "device": "cpu"}  # noqa: RUF012
    relations = {}  # noqa: RUF012

    def __init__(self, name=SPACE):
        self.name = name

    def fields(self):
        return ("width", "depth", "act")

    def draw(self, choose):
        return {
            "width": 4 * choose.whole("width", 1, 64, log=True),
            "depth": choose.one_of("depth", (1, 2, 3)),
            "act": choose.one_of("act", ("relu", "gelu")),
        }

    def build(self, values, image, num_classes):
        return Net(
            image, values["width"], values["depth"], {"relu": nn.ReLU, "gelu": nn.GELU}[values["act"]], num_classes
        )


def add() -> None:
    """Let the two spaces be found by their names."""
    from moezoo.search import list_spaces

    for name in (SPACE, OTHER):
        if name not in list_spaces():
            register_space(name, partial(Tiny, name))
