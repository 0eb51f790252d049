"""Tokens in windows of several sizes, one vector per size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moezoo.errors import ConfigError, InputError
from moezoo.models.multiscale_moe.fusion.features import check_scales
from moezoo.moe.checks import check_choice, check_int

Window = tuple[int, int]
MODES = ("2d", "1d")


class ScaleWindows(nn.Module):
    """For each scale s: what s x s windows of the token grid hold, averaged over the windows.

    A window is taken through its operation, a layer norm and GELU before the mean is taken. Without that
    nonlinearity the mean over windows of means would be the mean over all tokens, the same for every scale. Windows
    that the border cuts off count the tokens they have.

    Args:
        dim: Width D of the tokens.
        scales: Sides of the windows in tokens; a side longer than the grid's is cut down to it.
        grid: (rows, columns) of the tokens.
        mode: ``2d`` windows, or ``1d`` runs of s tokens in reading order, which cut across rows.
        op: What becomes of a window: its mean (``pool``), a depthwise and a pointwise convolution (``depthwise``), or
            a full convolution (``conv``), which has D * D parameters per token of the window.

    Raises:
        ConfigError: An argument is out of range, or two scales give the same window.
    """

    def __init__(self, dim: int, scales: Sequence[int], grid: tuple[int, int], *, mode: str = "2d", op: str = "pool"):
        super().__init__()
        self.dim, self.grid = check_int("dim", dim, low=1), grid
        self.scales = check_scales(scales)
        self.mode = check_choice("mode", mode, MODES)
        check_choice("op", op, _OPS)
        self.windows = clipped_windows(self.scales, grid, mode)
        self.embed = nn.ModuleList(_OPS[op](dim, window) for window in self.windows)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in self.windows)

    def forward(self, tokens: Tensor) -> list[Tensor]:
        """(B, L, D) tokens in reading order to one (B, D) per scale.

        Raises:
            InputError: The tokens are not those of the grid.
        """
        rows, columns = self.grid
        if tokens.dim() != 3 or tuple(tokens.shape[1:]) != (rows * columns, self.dim):
            raise InputError(
                f"tokens must be (batch, {rows * columns}, {self.dim}), those of a grid of {rows} x {columns}, got "
                f"{tuple(tokens.shape)}."
            )
        plane = self.grid if self.mode == "2d" else (1, rows * columns)
        map_BDHW = tokens.transpose(1, 2).unflatten(2, plane)
        return [F.gelu(norm(embed(map_BDHW))).mean(1) for embed, norm in zip(self.embed, self.norms, strict=True)]

    def extra_repr(self) -> str:
        return f"grid={self.grid}, windows={self.windows}, mode={self.mode!r}"


def clipped_windows(scales: Sequence[int], grid: tuple[int, int], mode: str = "2d") -> list[Window]:
    """(height, width) of each scale's windows on the grid.

    Raises:
        ConfigError: Two scales give the same window.
    """
    rows, columns = grid if mode == "2d" else (1, grid[0] * grid[1])
    windows = [(min(scale, rows), min(scale, columns)) for scale in scales]
    for index, window in enumerate(windows):
        if window in windows[:index]:
            alike = ", ".join(str(s) for s, w in zip(scales, windows, strict=True) if w == window)
            raise ConfigError(
                f"scales={list(scales)} is not allowed: on a grid of {grid[0]} x {grid[1]} tokens "
                f"(window_mode={mode!r}) the scales {alike} all have windows of {window[0]} x {window[1]}. Take at "
                f"most one of {max(rows, columns)} or more."
            )
    return windows


class MeanWindow(nn.Module):
    """The mean of every window: (B, D, H, W) to (B, windows, D)."""

    def __init__(self, dim: int, window: Window):
        super().__init__()
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        return _flat(F.avg_pool2d(x, self.window, ceil_mode=True, count_include_pad=False))

    def extra_repr(self) -> str:
        return f"{self.window}"


class ConvWindow(nn.Module):
    """A convolution that takes whole windows: (B, D, H, W) to (B, windows, D)."""

    def __init__(self, dim: int, window: Window, groups: int = 1):
        super().__init__()
        self.window = window
        # The norm behind it has a bias of its own.
        self.conv = nn.Conv2d(dim, dim, window, stride=window, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(F.pad(x, _missing(x, self.window)))
        return _flat(y * _share_present(x, self.window))


class DepthwiseWindow(nn.Module):
    """One weight per channel and place in the window, at first its mean, then a mixture of the channels."""

    def __init__(self, dim: int, window: Window):
        super().__init__()
        self.spatial = ConvWindow(dim, window, groups=dim)
        self.channels = nn.Linear(dim, dim, bias=False)
        nn.init.constant_(self.spatial.conv.weight, 1 / (window[0] * window[1]))

    def forward(self, x: Tensor) -> Tensor:
        return self.channels(self.spatial(x))


def _flat(x: Tensor) -> Tensor:
    return x.flatten(2).transpose(1, 2)


def _missing(x: Tensor, window: Window) -> tuple[int, int, int, int]:
    """Padding right and below that makes the windows whole."""
    return 0, -x.shape[3] % window[1], 0, -x.shape[2] % window[0]


def _share_present(x: Tensor, window: Window) -> Tensor | float:
    """(1, 1, h, w) by how much a window cut off by the border is scaled up, as in partial convolutions (Liu et al.
    2018, "Image inpainting for irregular holes using partial convolutions")."""
    right, below = _missing(x, window)[1::2]
    if not (right or below):
        return 1.0
    sides = zip(x.shape[2:], window, strict=True)
    down, across = (torch.ones(-(-n // w), dtype=x.dtype, device=x.device) for n, w in sides)
    down[-1] = window[0] / (window[0] - below)
    across[-1] = window[1] / (window[1] - right)
    return down[:, None] * across


_OPS = {"pool": MeanWindow, "depthwise": DepthwiseWindow, "conv": ConvWindow}
