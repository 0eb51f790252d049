"""One handwritten digit among scraps of others on a dark canvas: does a router find the place that matters?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from moezoo.data.arrays import Numbered
from moezoo.data.dividing import take_out
from moezoo.data.generated.canvas import PARTS, Stretch, check_at_least, check_share, image_stream
from moezoo.data.items import LabelledImages
from moezoo.data.options import PlainInput
from moezoo.data.splits import Splits
from moezoo.errors import ConfigError

SIDE = 64
SCRAP = 4
"""Pixels of an 8 x 8 digit that a scrap keeps in each direction: too few to be read."""
INPUT = PlainInput(input_size=(1, SIDE, SIDE))


class ClutteredDigits(LabelledImages):
    """Labelled images that also know where their digit is."""

    read: DigitPainter

    def box(self, index: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge of the digit, as fractions of the image's width and height."""
        return self.read.layout(self.items[index]).box


def load_cluttered_digits(
    *,
    train_images: int = 4000,
    val_images: int = 1000,
    test_images: int = 1000,
    digit_size: int = 20,
    clutter: int = 6,
    noise: float = 0.1,
    seed: int = 0,
    input: PlainInput = INPUT,
) -> Splits:
    """64 x 64 pixels with one of scikit-learn's digits and scraps of others that do not touch it. Generated.

    Digits of one part are never used in another, neither whole nor as scraps. ``part.box(index)`` is the digit's place.

    Args:
        train_images: How many.
        val_images: How many.
        test_images: How many.
        digit_size: Side of the digit in pixels, of 64.
        clutter: Scraps in an image.
        noise: Standard deviation of the noise, of a range of 1.
        seed: Of digits, places and noise.
        input: What the model takes.
    """
    check_at_least(1, train_images=train_images, val_images=val_images, test_images=test_images)
    check_at_least(0, clutter=clutter, seed=seed)
    if not 8 <= digit_size <= SIDE // 2:
        raise ConfigError(f"digit_size={digit_size!r} is not allowed: it must be from 8 to {SIDE // 2}.")
    check_share(noise=noise)
    sources, names = _digits()
    data = {}
    for part, number in zip(PARTS, (train_images, val_images, test_images), strict=True):
        painter = DigitPainter(*sources[part], digit_size, clutter, noise, seed, part)
        items = list(range(number))
        data[part] = ClutteredDigits(
            items,
            [painter.layout(i).label for i in items],
            Stretch(input),
            read=painter,
            name_of=Numbered(f"cluttered_digits {part} image"),
        )
    return Splits(
        "cluttered_digits (generated)", **data, label_names=names, mean=input.channel_mean, std=input.channel_std
    )


@dataclass(frozen=True)
class Layout:
    """What is where in one image, in pixels of 64."""

    label: int
    source: int
    left: int
    top: int
    size: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        return tuple(v / SIDE for v in (self.left, self.top, self.left + self.size, self.top + self.size))  # type: ignore[return-value]


@dataclass(frozen=True)
class DigitPainter:
    """Draws image ``number`` of a part."""

    pixels: np.ndarray
    """(N, 8, 8) digits of this part in [0, 1]."""
    labels: np.ndarray
    digit_size: int
    clutter: int
    noise: float
    seed: int
    part: str

    def layout(self, number: int) -> Layout:
        return self._layout(image_stream(self.seed, self.part, number))

    def _layout(self, rng: np.random.Generator) -> Layout:
        source = int(rng.integers(len(self.labels)))
        left, top = rng.integers(0, SIDE - self.digit_size + 1, size=2)
        return Layout(int(self.labels[source]), source, int(left), int(top), self.digit_size)

    def __call__(self, number: int) -> Image.Image:
        rng = image_stream(self.seed, self.part, number)
        layout = self._layout(rng)
        canvas = np.zeros((SIDE, SIDE))
        _paste(canvas, _enlarged(self.pixels[layout.source], layout.size), layout.left, layout.top)
        size = max(round(self.digit_size * SCRAP / 8), 1)
        for _ in range(self.clutter):
            row, column = rng.integers(0, 8 - SCRAP + 1, size=2)
            scrap = self.pixels[rng.integers(len(self.labels)), row : row + SCRAP, column : column + SCRAP]
            left, top = _free_place(rng, layout, size)
            _paste(canvas, _enlarged(scrap, size), left, top)
        canvas += rng.normal(0, self.noise, canvas.shape)
        return Image.fromarray((canvas.clip(0, 1) * 255).round().astype(np.uint8))


def _free_place(rng: np.random.Generator, digit: Layout, size: int) -> tuple[int, int]:
    """A place for a scrap that does not touch the digit. The digit is at most half as wide as the canvas."""
    while True:
        left, top = (int(v) for v in rng.integers(0, SIDE - size + 1, size=2))
        if left + size <= digit.left or left >= digit.left + digit.size:
            return left, top
        if top + size <= digit.top or top >= digit.top + digit.size:
            return left, top


def _enlarged(image: np.ndarray, size: int) -> np.ndarray:
    big = Image.fromarray((image * 255).astype(np.uint8)).resize((size, size), Image.Resampling.BICUBIC)
    return np.asarray(big) / 255


def _paste(canvas: np.ndarray, image: np.ndarray, left: int, top: int) -> None:
    place = canvas[top : top + image.shape[0], left : left + image.shape[1]]
    np.maximum(place, image, out=place)


def _digits() -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], tuple[str, ...]]:
    """Digits and labels of each part: 60, 20 and 20 %. The seed is fixed, so more images mean no other digits."""
    from sklearn.datasets import load_digits

    raw = load_digits()
    rest, test = take_out(raw.target, 0.2, 0)
    kept, val = take_out(raw.target[rest], 0.25, 0)
    chosen = {"train": rest[kept], "val": rest[val], "test": test}
    pixels = raw.images / 16
    names = tuple(str(name) for name in raw.target_names)
    return {part: (pixels[i], raw.target[i].astype(np.int64)) for part, i in chosen.items()}, names
