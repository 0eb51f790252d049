"""What configurations share of families that see images without a backbone of somebody else. No torch here."""

from __future__ import annotations

from typing import Any

from moezoo.errors import ConfigError


class OwnImages:
    """Base of configurations with ``img_size``, ``in_channels``, ``num_classes``, ``dropout``, ``mean`` and ``std``."""

    img_size: int | tuple[int, int]
    in_channels: int
    num_classes: int
    dropout: float
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    @property
    def sides(self) -> tuple[int, int]:
        """(height, width) of the image."""
        return (self.img_size, self.img_size) if isinstance(self.img_size, int) else self.img_size

    @property
    def in_chans(self) -> int:
        """``in_channels`` under the name common to all families."""
        return self.in_channels

    @property
    def drop_rate(self) -> float:
        """``dropout`` under the name common to all families."""
        return self.dropout

    def per_channel(self, field: str) -> tuple[float, ...]:
        """``mean`` or ``std``, one number per channel; stated for other channels, their average stands for each."""
        values = getattr(self, field) or (0.5,)
        return values if len(values) == self.in_channels else (sum(values) / len(values),) * self.in_channels

    def check_std(self) -> None:
        """Raise :class:`ConfigError` where a standard deviation is not above 0."""
        if self.std is not None and min(self.std) <= 0:
            raise ConfigError(f"std={list(self.std)} is not allowed: a standard deviation is above 0.")

    def data_description(self, **own: Any) -> dict[str, Any]:
        """How images are prepared, as timm's ``pretrained_cfg``; ``own`` is what the family adds."""
        return {
            "num_classes": self.num_classes,
            "input_size": (self.in_channels, *self.sides),
            "pool_size": None,
            "crop_pct": 1.0,
            "interpolation": "bicubic",
            "mean": self.per_channel("mean"),
            "std": self.per_channel("std"),
            **own,
        }
