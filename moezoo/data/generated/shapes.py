"""Coloured shapes and sentences that are true of them: image and text whose match is known."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from moezoo.data.arrays import Numbered
from moezoo.data.captioned import CaptionedImages, CaptionedSplits
from moezoo.data.generated.canvas import PARTS, Stretch, check_at_least, check_share, image_stream
from moezoo.data.options import PlainInput

SIDE = 64
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 205, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 40),
}
KINDS = ("circle", "square", "triangle", "cross")
SIZES = {"small": 7, "large": 12}
"""Half the side of a shape in pixels."""
BACKGROUNDS = {"white": 245, "grey": 150, "black": 15}
APART = 8
"""Pixels by which one centre must be further left or higher before a sentence says so."""
NUMBERS = {2: "two", 3: "three"}
WORDS = 1
"""The random stream of an image's sentences, beside the one of its picture."""
INPUT = PlainInput(input_size=(3, SIDE, SIDE))


@dataclass(frozen=True)
class Shape:
    """One shape; its place in pixels of 64."""

    colour: str
    kind: str
    size: str
    x: int
    y: int

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


@dataclass(frozen=True)
class Scene:
    background: str
    shapes: tuple[Shape, ...]


class ShapeImages(CaptionedImages):
    """Captioned images that also know what they show."""

    read: ShapePainter

    def scene(self, index: int) -> Scene:
        return self.read.scene(self.items[index])


def load_shapes(
    *,
    train_images: int = 4000,
    val_images: int = 500,
    test_images: int = 500,
    noise: float = 0.02,
    seed: int = 0,
    input: PlainInput = INPUT,
) -> CaptionedSplits:
    """Two or three coloured shapes on a plain ground, with five true sentences each. Generated.

    ``part.scene(index)`` says what is in an image.

    Args:
        train_images: How many.
        val_images: How many.
        test_images: How many.
        noise: Standard deviation of the noise, of a range of 1.
        seed: Of scenes, sentences and noise.
        input: What the model takes.
    """
    check_at_least(1, train_images=train_images, val_images=val_images, test_images=test_images)
    check_at_least(0, seed=seed)
    check_share(noise=noise)
    data: dict[str, Any] = {}
    for part, number in zip(PARTS, (train_images, val_images, test_images), strict=True):
        painter = ShapePainter(noise, seed, part)
        items = list(range(number))
        data[part] = ShapeImages(
            items,
            [sentences(painter.scene(i), image_stream(seed, part, i, WORDS)) for i in items],
            Stretch(input),
            read=painter,
            name_of=Numbered(f"shapes {part} image"),
        )
    return CaptionedSplits("shapes (generated)", **data, mean=input.channel_mean, std=input.channel_std)


@dataclass(frozen=True)
class ShapePainter:
    """Draws image ``number`` of a part."""

    noise: float
    seed: int
    part: str

    def scene(self, number: int) -> Scene:
        return _scene(image_stream(self.seed, self.part, number))

    def __call__(self, number: int) -> Image.Image:
        rng = image_stream(self.seed, self.part, number)
        scene = _scene(rng)
        image = Image.new("RGB", (SIDE, SIDE), (BACKGROUNDS[scene.background],) * 3)
        draw = ImageDraw.Draw(image)
        for shape in scene.shapes:
            _draw(draw, shape)
        pixels = np.asarray(image) + rng.normal(0, 255 * self.noise, (SIDE, SIDE, 3))
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


def _scene(rng: np.random.Generator) -> Scene:
    """Shapes that do not touch, no two of the same colour and kind, so that each can be spoken of."""
    number = int(rng.integers(2, 4))
    pairs = list(itertools.product(COLOURS, KINDS))
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:number]]
    while True:
        shapes = []
        for colour, kind in chosen:
            size = str(rng.choice(list(SIZES)))
            half = SIZES[size]
            x, y = (int(v) for v in rng.integers(half + 1, SIDE - half - 1, size=2))
            shapes.append(Shape(colour, kind, size, x, y))
        if all(not _touch(a, b) for a, b in itertools.combinations(shapes, 2)):
            return Scene(str(rng.choice(list(BACKGROUNDS))), tuple(shapes))


def _touch(a: Shape, b: Shape) -> bool:
    gap = SIZES[a.size] + SIZES[b.size] + 2
    return abs(a.x - b.x) < gap and abs(a.y - b.y) < gap


def sentences(scene: Scene, rng: np.random.Generator) -> tuple[str, ...]:
    """Five different sentences that are true of ``scene``; the first names all of it."""
    full = [_a(f"{s.size} {s.name}") for s in scene.shapes]
    first = f"{', '.join(full[:-1])} and {full[-1]} on {_a(scene.background)} background"
    names = [s.name for s in scene.shapes]
    others = [
        f"there are {NUMBERS[len(names)]} shapes, one of them is {_a(names[0])}",
        f"a picture of {' and '.join(_a(name) for name in names)}",
        *(f"the {s.name} is {s.size}" for s in scene.shapes),
        *(f"the {a.name} is {word} the {b.name}" for a, b in itertools.permutations(scene.shapes, 2)
          for word in _relations(a, b)),
    ]  # fmt: skip
    chosen = sorted(rng.permutation(len(others))[:4])
    return (first, *(others[i] for i in chosen))


def _relations(a: Shape, b: Shape) -> list[str]:
    """What may be said of ``a`` seen from ``b``, where it is plain to see."""
    found = [("left of", b.x - a.x), ("right of", a.x - b.x), ("above", b.y - a.y), ("below", a.y - b.y)]
    return [word for word, by in found if by >= APART]


def _a(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _draw(draw: ImageDraw.ImageDraw, shape: Shape) -> None:
    half, fill = SIZES[shape.size], COLOURS[shape.colour]
    x, y = shape.x, shape.y
    around = (x - half, y - half, x + half, y + half)
    if shape.kind == "circle":
        draw.ellipse(around, fill=fill)
    elif shape.kind == "square":
        draw.rectangle(around, fill=fill)
    elif shape.kind == "triangle":
        draw.polygon([(x, y - half), (x - half, y + half), (x + half, y + half)], fill=fill)
    else:
        arm = max(half // 3, 1)
        draw.rectangle((x - half, y - arm, x + half, y + arm), fill=fill)
        draw.rectangle((x - arm, y - half, x + arm, y + half), fill=fill)
