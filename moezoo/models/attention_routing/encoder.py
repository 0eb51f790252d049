"""The light encoder: strided convolutions from the image to a map of its cells."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from moezoo.models.attention_routing.config import AttentionRoutingConfig
from moezoo.models.attention_routing.costs import Convolution, encoder_plan
from moezoo.models.attention_routing.recompute import recomputes

GROUPS = 8
"""Groups of channels that are normalised together."""


class EncoderLayer(nn.Sequential):
    """Convolution, normalisation, ReLU.

    The normalisation is by image, not by batch: an image's scores, and with them its routes, are the same in training
    and in evaluation, and whatever other images are with it.
    """

    def __init__(self, plan: Convolution):
        super().__init__()
        self.conv = nn.Conv2d(
            plan.in_channels, plan.out_channels, plan.kernel, stride=plan.stride, padding=plan.padding, bias=False
        )
        self.norm = nn.GroupNorm(math.gcd(GROUPS, plan.out_channels), plan.out_channels)
        self.act = nn.ReLU()


class Encoder(nn.Module):
    """(B, C, H, W) images to (B, D, rows, columns): features of every cell.

    Args:
        config: The model's.
    """

    def __init__(self, config: AttentionRoutingConfig):
        super().__init__()
        self.grid = config.grid
        self.layers = nn.ModuleList(EncoderLayer(plan) for plan in encoder_plan(config))
        self.grad_checkpointing = False

    def maps(self, images: Tensor) -> list[Tensor]:
        """The map behind every layer."""
        found = []
        images = images.contiguous(memory_format=torch.channels_last)  # what a CPU convolves faster, and cells in a row
        for layer in self.layers:
            again = recomputes(self)
            images = checkpoint(layer, images, use_reentrant=False) if again else layer(images)
            found.append(images)
        return found

    def forward(self, images: Tensor) -> Tensor:
        last = self.maps(images)[-1]
        return last if last.shape[2:] == self.grid else F.adaptive_avg_pool2d(last, self.grid)
