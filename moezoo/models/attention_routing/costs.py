"""What the parts of the model cost, by formula: multiply-adds of an image or a cell. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from moezoo.models.attention_routing.config import AttentionRoutingConfig


class Convolution(NamedTuple):
    """One layer of the encoder."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int

    @property
    def padding(self) -> int:
        return (self.kernel - self.stride + 1) // 2

    def output(self, side: int) -> int:
        """Side of the map it gives."""
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


def encoder_plan(config: AttentionRoutingConfig) -> list[Convolution]:
    """The encoder's layers: two strides lead to the grid, further layers stay there, where they cost least.

    A map whose cells are powers of two comes out as large as the grid; others somewhat larger, to be pooled.
    """
    halvings = int(math.log2(min(config.cell)))
    first = halvings if config.encoder_layers == 1 else max(halvings - 1, 0)
    strides = [2**first, 2 ** (halvings - first), *[1] * config.encoder_layers][: config.encoder_layers]
    channels = [config.in_channels, *[config.encoder_channels] * config.encoder_layers]
    return [Convolution(channels[i], channels[i + 1], max(3, s), s) for i, s in enumerate(strides)]


def map_sizes(config: AttentionRoutingConfig) -> Iterator[tuple[Convolution, tuple[int, int]]]:
    """Each layer of the encoder with the size of its map."""
    height, width = config.sides
    for layer in encoder_plan(config):
        height, width = layer.output(height), layer.output(width)
        yield layer, (height, width)


def encoder_macs(config: AttentionRoutingConfig) -> int:
    """Of an image."""
    return sum(
        height * width * layer.kernel**2 * layer.in_channels * layer.out_channels
        for layer, (height, width) in map_sizes(config)
    )


def attention_macs(config: AttentionRoutingConfig) -> int:
    """Of an image."""
    hidden = config.attention_hidden
    per_cell = config.encoder_channels * hidden + (config.attention_layers - 1) * hidden**2 + hidden
    return config.num_cells * per_cell


def reads_features(config: AttentionRoutingConfig) -> bool:
    """Whether one of the MLPs that are built reads the encoder's features."""
    big = config.big_input == "both" and (config.dense or config.compute != "cheap")
    return big or (config.small_input == "features" and not config.dense and config.compute != "full")


def mlp_macs(in_dim: int, hidden_dim: int, layers: int, out_dim: int) -> int:
    """Of one row."""
    return in_dim * hidden_dim + (layers - 1) * hidden_dim**2 + hidden_dim * out_dim


def big_in_dim(config: AttentionRoutingConfig) -> int:
    """Numbers that the big MLP sees of a cell."""
    return config.crop_dim + (config.encoder_channels if config.big_input == "both" else 0)


def small_in_dim(config: AttentionRoutingConfig) -> int:
    """Numbers that the small MLP sees of a cell."""
    return config.encoder_channels if config.small_input == "features" else config.crop_dim


def big_macs(config: AttentionRoutingConfig) -> int:
    """Of a cell."""
    return mlp_macs(big_in_dim(config), config.big_hidden_dim, config.big_layers, config.embed_dim)


def small_macs(config: AttentionRoutingConfig) -> int:
    """Of a cell."""
    return mlp_macs(small_in_dim(config), config.small_hidden_dim, config.small_layers, config.embed_dim)


def dense_width(config: AttentionRoutingConfig, *, encodes: bool, scores: bool) -> int:
    """Hidden width of the dense twin's one MLP, at which the twin costs what the model does at its target ratio.

    Args:
        config: Of the model.
        encodes: The twin has the encoder too; otherwise what that costs goes into the MLP.
        scores: The same of the attention head.
    """
    per_image = config.num_cells * (config.ratio * big_macs(config) + (1 - config.ratio) * small_macs(config))
    per_image += 0 if encodes else encoder_macs(config)
    per_image += 0 if scores else attention_macs(config)
    wanted, in_dim = per_image / config.num_cells, big_in_dim(config)
    # (layers - 1) h^2 + (in + out) h = wanted
    square, linear = config.big_layers - 1, in_dim + config.embed_dim
    root = 2 * wanted / (linear + math.sqrt(linear**2 + 4 * square * wanted))
    near = (max(math.floor(root), 1), math.floor(root) + 1)
    return min(near, key=lambda h: abs(mlp_macs(in_dim, h, config.big_layers, config.embed_dim) - wanted))
