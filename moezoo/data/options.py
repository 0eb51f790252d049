"""Options that many data sets share. A data set's function takes such a class as one parameter; users set its
fields by name: ``load_dataset("cifar10", root="data", re_prob=0.25)``. No torch here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from moezoo.config import STRICT, option
from moezoo.errors import ConfigError

CropMode = Literal["center", "squash", "border"]
Interpolation = Literal["bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"]


@dataclass(frozen=True)
class PlainInput:
    """What a model takes, as its data config says; :func:`moezoo.data.input_options` reads it off a model."""

    __pydantic_config__ = STRICT

    input_size: tuple[int, int, int] = option((3, 224, 224), "(C, H, W) of an image; C is 1 or 3")
    mean: tuple[float, ...] = option((0.5,), "subtracted from pixels in [0, 1]; one value or one per channel")
    std: tuple[float, ...] = option((0.5,), "then divided by")
    interpolation: Interpolation = option("bicubic", "how images are resized")

    def __post_init__(self) -> None:
        size = self.input_size
        if len(size) != 3 or size[0] not in (1, 3) or min(size) < 1:
            raise ConfigError(f"input_size={size!r} is not allowed: it must be (1 or 3, height, width).")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, size[0]):
                raise ConfigError(f"{name}={values!r} is not allowed: it must have 1 or {size[0]} values.")
        if min(self.std) <= 0:
            raise ConfigError(f"std={self.std!r} is not allowed: it must be above 0.")

    @property
    def mode(self) -> str:
        """Pillow's mode of an image with so many channels."""
        return "L" if self.input_size[0] == 1 else "RGB"

    @property
    def channel_mean(self) -> tuple[float, ...]:
        """One mean per channel."""
        return tuple(self.mean) * (self.input_size[0] // len(self.mean))

    @property
    def channel_std(self) -> tuple[float, ...]:
        """One standard deviation per channel."""
        return tuple(self.std) * (self.input_size[0] // len(self.std))


@dataclass(frozen=True)
class ImageInput(PlainInput):
    """The same for data sets whose evaluation images are cut, as photographs are."""

    crop_pct: float = option(1.0, "share of the resized side that evaluation keeps, from the centre")
    crop_mode: CropMode = option("center", "what evaluation does to the longer side: cut, squashed, or a border added")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.crop_pct <= 1:
            raise ConfigError(f"crop_pct={self.crop_pct!r} is not allowed: it must be above 0 and at most 1.")


@dataclass(frozen=True)
class Augmentation:
    """What timm does to training images. The defaults are mild, for data sets of thousands, not millions."""

    __pydantic_config__ = STRICT

    augment: bool = option(True, "false: training images are prepared as test images are")
    scale: tuple[float, float] = option((0.5, 1.0), "area of the random crop, as a share of the image")
    ratio: tuple[float, float] = option((0.75, 1.3333), "width over height of the crop")
    hflip: float = option(0.5, "probability of a mirror image")
    color_jitter: float = option(0.0, "largest change of brightness, contrast and saturation, as a fraction")
    auto_augment: str | None = option(None, "timm's policy, such as rand-m9-mstd0.5, augmix-m3, original or 3a")
    re_prob: float = option(0.0, "probability that a random rectangle is erased")

    def __post_init__(self) -> None:
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high or (name == "scale" and high > 1):
                allowed = "(low, high), 0 < low <= high" + (" <= 1" if name == "scale" else "")
                raise ConfigError(f"{name}={(low, high)!r} is not allowed: it must be {allowed}.")
        for name in ("hflip", "re_prob", "color_jitter"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not allowed: it must be from 0 to 1.")
        if self.color_jitter and self.auto_augment and "3a" not in self.auto_augment:
            raise ConfigError(
                f"color_jitter={self.color_jitter!r} is not allowed beside auto_augment={self.auto_augment!r}: "
                "the policy changes colours itself."
            )


@dataclass(frozen=True)
class Validation:
    """What is set aside of the training images where a data set has no validation part."""

    __pydantic_config__ = STRICT

    val_fraction: float = option(0.1, "share of the images drawn for validation, if there is no such part")
    split_seed: int = option(0, "draws the missing parts; no training seed, so runs of different seeds share them")

    def __post_init__(self) -> None:
        _check_share("val_fraction", self.val_fraction)
        if not 0 <= self.split_seed < 2**32:
            raise ConfigError(f"split_seed={self.split_seed!r} is not allowed: it must be from 0 to 2**32 - 1.")


@dataclass(frozen=True)
class HeldOut(Validation):
    """The same where there may be no test part either."""

    test_fraction: float = option(0.2, "share of the images drawn for the test, if there is no such part")

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_share("test_fraction", self.test_fraction)
        if self.val_fraction + self.test_fraction >= 1:
            raise ConfigError(
                f"val_fraction={self.val_fraction!r} and test_fraction={self.test_fraction!r} leave nothing to train on"
            )


@dataclass(frozen=True)
class HeldOutIdentities:
    """What is set aside of the training part of a re-identification set, none of which has a part for validation."""

    __pydantic_config__ = STRICT

    val_identities: int = option(0, "training identities set aside, with all their images, to choose the best epoch by")
    split_seed: int = option(0, "draws them; no training seed, so runs of different seeds share them")

    def __post_init__(self) -> None:
        if self.val_identities < 0:
            raise ConfigError(f"val_identities={self.val_identities!r} is not allowed: it must be at least 0.")
        if not 0 <= self.split_seed < 2**32:
            raise ConfigError(f"split_seed={self.split_seed!r} is not allowed: it must be from 0 to 2**32 - 1.")


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ConfigError(f"{name}={value!r} is not allowed: it must be above 0 and below 1.")


IMAGE_INPUT = ImageInput()
AUGMENTATION = Augmentation()
VALIDATION = Validation()
HELD_OUT = HeldOut()
HELD_OUT_IDENTITIES = HeldOutIdentities()
