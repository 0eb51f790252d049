"""A small network with a federated layer and a batch norm, and images that it learns at once."""

from __future__ import annotations

import torch
from torch import nn

from moezoo.data import ImageTensors, Splits
from moezoo.federated import FederatedConfig, FederatedMoE
from moezoo.train import TrainingConfig

CONFIG = FederatedConfig(clients=3, rounds=2, partition="by_class", local_experts=None, baselines=())
TRAINING = TrainingConfig(batch_size=8, lr=3e-2, warmup_epochs=0, device="cpu")


class Net(nn.Module):
    """(B, 1, 4, 4) to (B, 4)."""

    num_classes = 4

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 2, stride=2)
        self.norm = nn.BatchNorm2d(8, momentum=0.5)
        self.moe = FederatedMoE(8, num_local=1, num_global=2, hidden_dim=8)
        self.head = nn.Linear(8, 4)

    def forward(self, images):
        x = self.norm(self.stem(images)).flatten(2).transpose(1, 2)
        return self.head((x + self.moe(x)).mean(1))


def net(seed: int = 0) -> Net:
    torch.manual_seed(seed)
    return Net()


def splits(images: int = 64) -> Splits:
    """Each class lights up another quarter."""
    generator = torch.Generator().manual_seed(1)
    parts = []
    for _ in range(3):
        labels = torch.arange(images) % 4
        pixels = 0.3 * torch.randn(images, 1, 4, 4, generator=generator)
        for row, label in enumerate(labels.tolist()):
            pixels[row, 0, 2 * (label // 2) : 2 * (label // 2) + 2, 2 * (label % 2) : 2 * (label % 2) + 2] += 1.0
        parts.append(ImageTensors(pixels, labels))
    return Splits("quarters", *parts, ("a", "b", "c", "d"), (0.0,), (1.0,))
