import pytest
import torch
from nursery import Nursery
from torch_threads import one_thread  # noqa: F401

from moezoo.data import ImageTensors, Splits


@pytest.fixture(scope="module")
def toy_splits():
    """Four classes that one bright pixel tells apart: learnable in a few steps."""
    generator = torch.Generator().manual_seed(0)

    def part(count):
        labels = torch.arange(count) % 4
        images = 0.1 * torch.randn(count, 1, 2, 2, generator=generator)
        images.view(count, 4)[torch.arange(count), labels] += 1
        return ImageTensors(images, labels)

    return Splits("toy", part(64), part(16), part(16), ("a", "b", "c", "d"), (0.5,), (0.5,))


@pytest.fixture(scope="session")
def nursery():
    """Starts fresh processes in milliseconds."""
    nursery = Nursery()
    yield nursery
    nursery.close()
