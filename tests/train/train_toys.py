"""What the tests of the training loop share: a small model with everything random in it, and observers."""

from __future__ import annotations

import os
import signal

import torch
from torch import nn

from moezoo.moe import MoELayer
from moezoo.train import TrainingConfig, seeded
from moezoo.train.progress import Silent


class Toy(nn.Module):
    """Four pixels, a backbone of one layer, an MoE, four classes; dropout, so that the seed matters."""

    def __init__(self, weights=None, **moe):
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.moe = MoELayer(4, num_experts=4, hidden_dim=16, aux_weights=weights, **moe)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(4, 4)

    def forward(self, images):
        x = self.stem(images.flatten(1))
        return self.head(self.drop(x + self.moe(x)))

    def get_classifier(self):
        return self.head

    def group_matcher(self, coarse=False):
        return {"stem": r"^stem", "blocks": [(r"^moe", (0,))]}


def toy(seed=0, **kwargs):
    with seeded(seed):
        return Toy(**kwargs)


def config(**changes):
    defaults = {"epochs": 4, "batch_size": 16, "lr": 0.03, "warmup_epochs": 1.0, "label_smoothing": 0.0}
    return TrainingConfig(**{**defaults, "device": "cpu", **changes})


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class SignalAt(Silent):
    """Sends this process a signal during a step."""

    def __init__(self, step, signum=signal.SIGTERM):
        self.left, self.signum = step, signum

    def step(self, loss, routing=(), use=None):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.signum)
