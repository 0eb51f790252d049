"""Figures seen in visible, near and thermal infrared light, told apart by cues of known spectrum and scale.

Each spectrum has a coarse cue (what a large part of the figure is like) and a fine one (a weave of three or five
pixels, whose mean is that of the coarse cue). A cue has four levels, drawn for each identity and independent of the
others; one that is not among ``cues`` changes from image to image and says nothing. So a model's use of a spectrum
or a scale can be measured: leave one cue, and see whether identities are still found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from moezoo.data.generated.canvas import check_at_least, check_share, image_stream
from moezoo.data.options import PlainInput
from moezoo.data.reid.scan import REID_AUGMENTATION, REID_INPUT, SPECTRA
from moezoo.data.reid.splits import ReidImages, ReidSplits, Sighting
from moezoo.data.reid.transforms import ReidAugmentation, ReidPrepare
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean

HEIGHT, WIDTH = 128, 64
LEVELS = 4
CUES = ("rgb_coarse", "rgb_fine", "nir_coarse", "nir_fine", "tir_coarse", "tir_fine")

CLOTHES = np.array([(200, 90, 90), (70, 150, 90), (100, 120, 210), (150, 130, 50)], dtype=float)
"""rgb_coarse: the colour of the upper body."""
REFLECTANCE = (70, 110, 150, 190)
"""nir_coarse: its brightness in near infrared."""
HOT_SPOTS = (20, 46, 70, 100)
"""tir_coarse: the height, in pixels from the top, of the warmest place."""
WEAVES = ((3, 0), (0, 3), (5, 0), (0, 5))
"""The fine cues: pixels from stripe to stripe, downwards or across. A mirror image has the same."""
DEPTH = 22
"""By how much a stripe is brighter or darker than the mean."""


class TrispectralImages(ReidImages):
    """Sightings that also know the cues they show."""

    read: FigurePainter

    def levels(self, index: int) -> dict[str, int]:
        """The level of every cue in this image, the identity's own or, for a cue without meaning, the image's."""
        return dict(zip(CUES, (int(v) for v in self.read.levels(self.items[index])), strict=True))


def load_trispectral(
    *,
    train_identities: int = 96,
    test_identities: int = 48,
    cameras: int = 4,
    images_per_camera: int = 3,
    cues: tuple[str, ...] = CUES,
    noise: float = 0.03,
    seed: int = 0,
    input: PlainInput = REID_INPUT,
    augmentation: ReidAugmentation = REID_AUGMENTATION,
) -> ReidSplits:
    """Figures in RGB, near and thermal infrared with planted cues, for re-identification. Generated.

    ``part.levels(index)`` says which level of each cue an image shows.

    Args:
        train_identities: Identities to learn.
        test_identities: Others, to be found again.
        cameras: They differ in brightness and background.
        images_per_camera: Of each identity; one of them is a query.
        cues: Which cues tell identities apart; the others are random in each image.
        noise: Standard deviation of the noise, of a range of 1.
        seed: Of identities and images.
        input: What the model takes.
        augmentation: For training images.
    """
    check_at_least(1, train_identities=train_identities, test_identities=test_identities)
    check_at_least(2, cameras=cameras, images_per_camera=images_per_camera)
    check_at_least(0, seed=seed)
    check_share(noise=noise)
    codes = _codes(cues, train_identities + test_identities, seed)
    everyone = range(train_identities + test_identities)
    takes = {
        "train": (everyone[:train_identities], range(images_per_camera)),
        "query": (everyone[train_identities:], range(1)),
        "gallery": (everyone[train_identities:], range(1, images_per_camera)),
    }
    painter = FigurePainter(codes, noise, seed)
    data: dict[str, Any] = {
        part: TrispectralImages(
            [Sighting((i, c, t), i, c) for i in identities for c in range(cameras) for t in numbers],
            ReidPrepare(input, augmentation if part == "train" else None),
            relabel=part == "train",
            read=painter,
            name_of=_name,
        )
        for part, (identities, numbers) in takes.items()
    }
    return ReidSplits(
        "trispectral (generated)",
        **data,
        modalities=SPECTRA,
        mean=input.channel_mean,
        std=input.channel_std,
    )


def _codes(cues: Sequence[str], number: int, seed: int) -> np.ndarray:
    """(identities, cues) levels, -1 for a cue without meaning; no two identities are alike."""
    for cue in cues:
        if cue not in CUES:
            raise ConfigError(f"cues: {cue!r} is not a cue.{did_you_mean(cue, CUES)} Allowed: {', '.join(CUES)}.")
    used = [i for i, cue in enumerate(CUES) if cue in cues]
    possible = LEVELS ** len(used)
    if number > possible:
        raise ConfigError(
            f"train_identities + test_identities = {number} is not allowed with {len(used)} cues: they tell "
            f"{possible} identities apart."
        )
    chosen = np.random.default_rng(seed).permutation(possible)[:number]
    codes = np.full((number, len(CUES)), -1)
    for place, column in enumerate(used):
        codes[:, column] = chosen // LEVELS**place % LEVELS
    return codes


def _name(item: tuple[int, int, int]) -> str:
    return f"trispectral identity {item[0]}, camera {item[1]}, image {item[2]}"


@dataclass(frozen=True)
class FigurePainter:
    """Draws image ``(identity, camera, number)`` in three spectra."""

    codes: np.ndarray
    noise: float
    seed: int

    def levels(self, item: tuple[int, int, int]) -> np.ndarray:
        return self._levels(item, self._stream(item))

    def _stream(self, item: tuple[int, int, int]) -> np.random.Generator:
        return image_stream(self.seed, "train", *item)  # identities are numbered through all parts

    def _levels(self, item: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
        code = self.codes[item[0]]
        return np.where(code < 0, rng.integers(LEVELS, size=len(CUES)), code)

    def __call__(self, item: tuple[int, int, int]) -> list[Image.Image]:
        rng = self._stream(item)
        levels = self._levels(item, rng)
        figure = _Figure(*rng.integers(-3, 4, size=2))
        camera = np.random.default_rng([self.seed, item[1]])  # the same for all its images
        rgb = self._spectrum(rng, camera, figure, CLOTHES[levels[0]], levels[1], head=170.0, legs=60.0)
        nir = self._spectrum(rng, camera, figure, REFLECTANCE[levels[2]], levels[3], head=180.0, legs=90.0)
        warmth = 80 * np.exp(-(((figure.y - HOT_SPOTS[levels[4]]) ** 2 + (figure.x - 32) ** 2) / (2 * 9.0**2)))
        tir = self._spectrum(rng, camera, figure, 110, levels[5], head=110.0, legs=110.0, extra=warmth)
        return [Image.fromarray(rgb), Image.fromarray(nir[..., 0]), Image.fromarray(tir[..., 0])]

    def _spectrum(self, rng, camera, figure, body, weave, *, head, legs, extra=0.0) -> np.ndarray:
        """(H, W, 3) bytes. ``body`` is the mean of the upper body, one value or one per channel."""
        picture = np.full((HEIGHT, WIDTH, 3), camera.uniform(25, 60))
        picture[figure.head] = head
        picture[figure.legs] = legs
        picture[figure.body] = np.asarray(body, dtype=float) + DEPTH * figure.stripes(weave, rng)[figure.body, None]
        picture += np.broadcast_to(np.asarray(extra), (HEIGHT, WIDTH))[..., None] * figure.all[..., None]
        picture *= camera.uniform(0.92, 1.08) * rng.uniform(0.97, 1.03)
        picture += rng.normal(0, 255 * self.noise, picture.shape)
        return picture.round().clip(0, 255).astype(np.uint8)


class _Figure:
    """Where head, upper body and legs are, moved a little from image to image."""

    def __init__(self, down: int, right: int):
        row, column = np.mgrid[:HEIGHT, :WIDTH]
        self.y, self.x = row - down, column - right
        self.head = (self.y - 20) ** 2 + (self.x - 32) ** 2 < 10**2
        self.body = (abs(self.y - 55) < 23) & (abs(self.x - 32) < 16)
        self.legs = (abs(self.y - 99) < 21) & (abs(self.x - 32) < 12)
        self.all = self.head | self.body | self.legs

    def stripes(self, weave: int, rng: np.random.Generator) -> np.ndarray:
        """(H, W) waves between -1 and 1, at a random phase."""
        down, across = WEAVES[weave]
        place = self.y / down if down else self.x / across
        return np.sin(2 * np.pi * (place + rng.uniform()))
