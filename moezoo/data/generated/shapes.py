"""Coloured shapes and sentences that are true of them: image and text whose match is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from moezoo.data.arrays import Numbered
from moezoo.data.captioned import CaptionedImages, CaptionedSplits
from moezoo.data.generated.canvas import PARTS, Stretch, check_at_least, check_share, image_stream
from moezoo.data.generated.scene_words import MOST_SENTENCES, sentences
from moezoo.data.generated.scenes import (
    BACKGROUNDS,
    COLOURS,
    SIDE,
    SIZES,
    Allowed,
    Scene,
    SceneOptions,
    Shape,
    allowed_in,
    draw_scene,
)
from moezoo.data.options import PlainInput
from moezoo.errors import ConfigError

WORDS = 1
"""The random stream of an image's sentences, beside the one of its picture."""
INPUT = PlainInput(input_size=(3, SIDE, SIDE))
SCENES = SceneOptions()


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
    num_captions: int = MOST_SENTENCES,
    noise: float = 0.02,
    seed: int = 0,
    scenes: SceneOptions = SCENES,
    input: PlainInput = INPUT,
) -> CaptionedSplits:
    """Coloured shapes on a plain ground, with true sentences. Generated.

    ``part.scene(index)`` says what is in an image.

    Args:
        train_images: How many.
        val_images: How many.
        test_images: How many.
        num_captions: Sentences of an image, 1 to 5; the first names all that is in it.
        noise: Standard deviation of the noise, of a range of 1.
        seed: Of scenes, sentences and noise, and of which combinations are held out.
        scenes: What scenes there are.
        input: What the model takes.
    """
    check_at_least(1, train_images=train_images, val_images=val_images, test_images=test_images)
    check_at_least(0, seed=seed)
    check_share(noise=noise)
    if not 1 <= num_captions <= MOST_SENTENCES:
        raise ConfigError(f"num_captions={num_captions!r} is not allowed: it must be from 1 to {MOST_SENTENCES}.")
    data: dict[str, Any] = {}
    allowed = allowed_in(scenes, seed)
    for part, number in zip(PARTS, (train_images, val_images, test_images), strict=True):
        painter = ShapePainter(noise, seed, part, scenes, allowed[part])
        items = list(range(number))
        data[part] = ShapeImages(
            items,
            [sentences(painter.scene(i), image_stream(seed, part, i, WORDS), num_captions) for i in items],
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
    scenes: SceneOptions
    allowed: Allowed

    def scene(self, number: int) -> Scene:
        return draw_scene(image_stream(self.seed, self.part, number), self.scenes, self.allowed)

    def __call__(self, number: int) -> Image.Image:
        rng = image_stream(self.seed, self.part, number)
        scene = draw_scene(rng, self.scenes, self.allowed)
        image = Image.new("RGB", (SIDE, SIDE), (BACKGROUNDS[scene.background],) * 3)
        draw = ImageDraw.Draw(image)
        for shape in scene.shapes:
            _draw(draw, shape)
        pixels = np.asarray(image) + rng.normal(0, 255 * self.noise, (SIDE, SIDE, 3))
        return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


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
