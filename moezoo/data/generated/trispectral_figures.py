"""Drawing a figure in visible, near and thermal infrared light, with cues of known spectrum and scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image

from moezoo.data.generated.canvas import image_stream
from moezoo.data.generated.trispectral_patchwork import patchwork

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
DEPTHS = (22.0, 22.0, 22.0)
"""By how much a stripe of each spectrum is brighter or darker than the mean, unless said otherwise."""
MAX_DEPTH = 45.0
"""With more, stripes on the brightest clothes would be cut off, which changes their mean."""
MAX_PATCHWORK = 25.0
"""With more, patches on the body would be cut off."""
PLAIN = 110.0
"""The body where a patchwork has the coarse cue."""
REMEMBERED = 4096
"""Sightings whose pictures are kept as bytes, 41 kB each: 168 MB at most."""


@dataclass(frozen=True, eq=False)
class FigurePainter:
    """Draws image ``(identity, camera, number)`` in three spectra, and remembers the first :data:`REMEMBERED`."""

    codes: np.ndarray
    noise: float
    seed: int
    depths: tuple[float, ...] = DEPTHS
    patchwork: float = 0.0
    painted: dict[tuple[int, int, int], tuple[np.ndarray, ...]] = field(default_factory=dict, repr=False)

    def __reduce__(self) -> tuple[Any, ...]:  # a worker paints for itself
        return FigurePainter, (self.codes, self.noise, self.seed, self.depths, self.patchwork)

    def levels(self, item: tuple[int, int, int]) -> np.ndarray:
        return self._levels(item, self._stream(item))

    def _stream(self, item: tuple[int, int, int]) -> np.random.Generator:
        return image_stream(self.seed, "train", *item)  # identities are numbered through all parts

    def _levels(self, item: tuple[int, int, int], rng: np.random.Generator) -> np.ndarray:
        code = self.codes[item[0]]
        return np.where(code < 0, rng.integers(LEVELS, size=len(CUES)), code)

    def __call__(self, item: tuple[int, int, int]) -> list[Image.Image]:
        pictures = self.painted.get(item)
        if pictures is None:
            pictures = self._paint(item)
            # An epoch reads every image once: to keep the first ones saves more than to keep the latest.
            if len(self.painted) < REMEMBERED:
                self.painted[item] = pictures
        return [Image.fromarray(picture) for picture in pictures]

    def _paint(self, item: tuple[int, int, int]) -> tuple[np.ndarray, ...]:
        rng = self._stream(item)
        levels = self._levels(item, rng)
        figure = _Figure(*rng.integers(-3, 4, size=2))
        camera = np.random.default_rng([self.seed, item[1]])  # the same for all its images
        bodies: list[Any] = [CLOTHES[levels[0]], REFLECTANCE[levels[2]], 110]
        warmth = 80 * np.exp(-(((figure.y - HOT_SPOTS[levels[4]]) ** 2 + (figure.x - 32) ** 2) / (2 * 9.0**2)))
        if self.patchwork:
            bodies, warmth = [PLAIN, PLAIN, PLAIN], np.zeros_like(warmth)
        heads, legs, extras = (170.0, 180.0, 110.0), (60.0, 90.0, 110.0), (0.0, 0.0, warmth)
        looks = zip(levels[0::2], levels[1::2], self.depths, bodies, heads, legs, extras, strict=True)
        rgb, nir, tir = (self._spectrum(rng, camera, figure, *look) for look in looks)
        return rgb, nir[..., 0].copy(), tir[..., 0].copy()

    def _spectrum(self, rng, camera, figure, coarse, weave, depth, body, head, legs, extra) -> np.ndarray:
        """(H, W, 3) bytes. ``body`` is the mean of the upper body, one value or one per channel."""
        picture = np.full((HEIGHT, WIDTH, 3), camera.uniform(25, 60))
        picture[figure.head] = head
        picture[figure.legs] = legs
        stripes = depth * figure.stripes(weave, rng)
        picture[figure.body] = np.asarray(body, dtype=float) + stripes[figure.body, None]
        picture += np.broadcast_to(np.asarray(extra), (HEIGHT, WIDTH))[..., None] * figure.all[..., None]
        if self.patchwork:
            picture += self.patchwork * patchwork(coarse, HEIGHT, WIDTH, rng)[..., None]
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
