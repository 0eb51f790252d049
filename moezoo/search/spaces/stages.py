"""Networks of stages, and RegNet's rule that gives them: quantised linear widths. No torch here.

Radosavovic et al. 2020, "Designing Network Design Spaces" (https://arxiv.org/abs/2003.13678).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from moezoo.errors import ConfigError

QUANTUM = 8
"""Widths are multiples of it."""


@dataclass(frozen=True)
class Stages:
    """One entry per stage. A stage's blocks are alike."""

    widths: tuple[int, ...]
    """Channels that leave a block."""
    depths: tuple[int, ...]
    """Blocks."""
    bottlenecks: tuple[float, ...]
    """Width over the width inside a block."""
    groups: tuple[int, ...]
    """Channels of a group of the 3 x 3 convolution."""

    def __post_init__(self) -> None:
        lengths = {len(self.widths), len(self.depths), len(self.bottlenecks), len(self.groups)}
        if len(lengths) != 1 or not self.widths:
            raise ConfigError(f"widths, depths, bottlenecks and groups must be as many each, got {self}.")
        for width, depth, bottleneck, group in zip(*self.columns(), strict=True):
            if min(width, depth, bottleneck, group) <= 0:
                raise ConfigError(f"every number of {self} must be above 0.")
            inner = width / bottleneck
            if inner != int(inner) or int(inner) % group:
                raise ConfigError(
                    f"width {width} with bottleneck {bottleneck} has {inner:g} channels inside a block, which groups "
                    f"of {group} do not divide."
                )

    def columns(self) -> tuple[Sequence[Any], ...]:
        """Widths, depths, bottlenecks, groups."""
        return self.widths, self.depths, self.bottlenecks, self.groups

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        names = ("widths", "depths", "bottlenecks", "groups")
        return {name: list(column) for name, column in zip(names, self.columns(), strict=True)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Stages:
        """From what :meth:`to_dict` gave."""
        return Stages(*(tuple(values[name]) for name in ("widths", "depths", "bottlenecks", "groups")))


def block_widths(w_0: int, w_a: float, w_m: float, d: int) -> list[int]:
    """The width of each of ``d`` blocks, before groups are fitted.

    Block j would have u_j = w_0 + w_a j channels; it gets w_0 w_m^s with the whole s that is nearest to
    log(u_j / w_0) / log(w_m), rounded to a multiple of 8.

    Raises:
        ConfigError: A number is out of range.
    """
    if w_0 < QUANTUM or w_0 % QUANTUM:
        raise ConfigError(f"w_0={w_0!r} is not allowed: it must be a multiple of {QUANTUM} of at least {QUANTUM}.")
    if w_a < 0 or w_m <= 1 or d < 1:
        raise ConfigError(f"w_a={w_a!r} must be at least 0, w_m={w_m!r} above 1 and d={d!r} at least 1.")
    steps = [round(math.log(1 + w_a * j / w_0) / math.log(w_m)) for j in range(d)]
    return [round(w_0 * w_m**step / QUANTUM) * QUANTUM for step in steps]


def regnet_stages(
    w_0: int, w_a: float, w_m: float, d: int, b: float = 1, g: int = 8, *, least_share: float = 0.0
) -> Stages:
    """RegNet's stages: blocks of equal width make a stage.

    Args:
        w_0: Width of the first block, a multiple of 8.
        w_a: Slope of the widths.
        w_m: What one stage is wider than the one before.
        d: Blocks in all.
        b: Bottleneck ratio: width over the width inside a block, 0.25 for an inverted one.
        g: Channels of a group. Where they do not divide a width inside, that is rounded to a multiple.
        least_share: Round up where less than this share of a width would be left; torchvision has 0.9.

    Raises:
        ConfigError: A number is out of range.
    """
    blocks = block_widths(w_0, w_a, w_m, d)
    widths = sorted(set(blocks))
    depths = [blocks.count(width) for width in widths]
    inner = [int(width / b) for width in widths]
    groups = [min(g, width) for width in inner]
    inner = [_fitted(width, group, least_share) for width, group in zip(inner, groups, strict=True)]
    return Stages(tuple(int(width * b) for width in inner), tuple(depths), (b,) * len(widths), tuple(groups))


def _fitted(width: int, group: int, least_share: float) -> int:
    if not least_share:
        return round(width / group) * group
    fitted = max(group, (width + group // 2) // group * group)
    return fitted if fitted >= least_share * width else fitted + group
