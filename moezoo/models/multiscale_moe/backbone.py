"""What the model reads off a backbone: tokens on their grid, and one global feature."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from moezoo.backbones.caches import without_leftovers
from moezoo.backbones.hf.model import TransformersModel
from moezoo.backbones.site import Layout
from moezoo.backbones.trace import fake_copy
from moezoo.errors import ConfigError

MAX_PREFIX = 32
"""Most tokens before the grid that are taken for class or register tokens."""
_BATCH = 3


@dataclass(frozen=True)
class TokenLayout:
    """How the features of a backbone lie."""

    layout: Layout
    grid: tuple[int, int]
    """Rows and columns of the tokens."""
    prefix_tokens: int
    """Tokens before the grid (class token, registers); 0 for maps."""
    dim: int
    """Width of a token."""
    pooled_dim: int
    """Width of the global feature."""

    def tokens(self, feature: Tensor) -> Tensor:
        """(B, L, D) tokens of the grid alone, in reading order."""
        if self.layout == "NCHW":
            return feature.flatten(2).transpose(1, 2)
        return feature.flatten(1, -2)[:, self.prefix_tokens :]


def tokens_and_global(trunk: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """The features of (B, C, H, W) images as the backbone leaves them, and (B, D) what it makes of them all."""
    if isinstance(trunk, TransformersModel):
        return trunk.forward_tokens(images)
    feature = trunk.forward_features(images)  # type: ignore[operator]
    return feature, trunk.forward_head(feature, pre_logits=True)  # type: ignore[operator]


def read_layout(trunk: nn.Module, input_size: tuple[int, int, int], name: str) -> TokenLayout:
    """How the features of ``trunk`` lie, found out on fake tensors.

    Args:
        trunk: Without a classifier; it is not run, a fake copy is.
        input_size: (C, H, W).
        name: For messages.

    Raises:
        ConfigError: It cannot take such images, or its features lie on no grid.
    """
    if isinstance(trunk, TransformersModel):
        _ = trunk.feature_info  # finds out now, and not in the first forward, where its tokens lie
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    fake = fake_copy(trunk, mode)
    like = next(fake.parameters())
    with without_leftovers(fake), mode, torch.no_grad():
        images = torch.zeros(_BATCH, *input_size, dtype=like.dtype, device=like.device)
        try:
            feature, pooled = tokens_and_global(fake, images)
        except Exception as error:  # whatever the backbone raises
            raise ConfigError(
                f"model_name={name!r} is not possible: it gives no tokens and global feature of images of "
                f"{' x '.join(map(str, input_size))}: {type(error).__name__}: {error!s:.200}"
            ) from error
    if not isinstance(feature, Tensor) or feature.dim() not in (3, 4):
        raise ConfigError(f"model_name={name!r} is not possible: its features are no tokens and no map.")
    if pooled.dim() != 2:
        pool = getattr(trunk, "global_pool", None)
        raise ConfigError(
            f"global_pool={pool if isinstance(pool, str) else ''!r} is not possible: with it {name!r} gives no one "
            "global feature of an image. Leave it out for the backbone's own."
        )
    if feature.dim() == 4:
        return _of_map(trunk, feature, pooled)
    grid, prefix = _grid(trunk, feature.shape[1], input_size[1:], name)
    return TokenLayout("NLC", grid, prefix, feature.shape[2], pooled.shape[1])


def _of_map(trunk: Any, feature: Tensor, pooled: Tensor) -> TokenLayout:
    channels = getattr(trunk, "num_features", pooled.shape[1])
    stated = str(getattr(getattr(trunk, "output_fmt", ""), "value", getattr(trunk, "output_fmt", "")))
    last = feature.shape[3] == channels and (feature.shape[1] != channels or stated == "NHWC")
    _, a, b, c = feature.shape
    if last:
        return TokenLayout("NHWC", (a, b), 0, c, pooled.shape[1])
    return TokenLayout("NCHW", (b, c), 0, a, pooled.shape[1])


def _grid(trunk: Any, length: int, sides: tuple[int, ...], name: str) -> tuple[tuple[int, int], int]:
    """The grid of a token sequence, and how many tokens stand before it."""
    height, width = sides
    embed = getattr(getattr(trunk, "patch_embed", None), "grid_size", None)
    guesses = [] if embed is None else [(int(embed[0]), int(embed[1]))]
    for prefix in dict.fromkeys((int(getattr(trunk, "num_prefix_tokens", 0)), 0, 1, 2, 4, 5)):
        rows = math.isqrt(max(length - prefix, 0) * height // width)
        if rows and rows * (rows * width // height) == length - prefix:
            guesses.append((rows, rows * width // height))
    for rows, columns in guesses:
        if 0 <= length - rows * columns <= MAX_PREFIX:
            return (rows, columns), length - rows * columns
    raise ConfigError(f"model_name={name!r} is not possible: its {length} tokens lie on no grid of the image.")
