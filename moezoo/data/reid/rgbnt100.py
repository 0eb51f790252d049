"""RGBNT100: vehicles in three spectra, side by side in one picture."""

from __future__ import annotations

import re

from PIL import Image

from moezoo.data.images import read_image
from moezoo.data.options import HELD_OUT_IDENTITIES, HeldOutIdentities, PlainInput
from moezoo.data.reid.scan import (
    REID_AUGMENTATION,
    SPECTRA,
    find_folders,
    gather,
    images_in,
    read_name,
    reid_splits,
    without_junk,
)
from moezoo.data.reid.splits import ReidSplits
from moezoo.data.reid.transforms import ReidAugmentation
from moezoo.errors import UnreadableImage

NAME = re.compile(r"(?P<identity>-?\d+)_c(?P<camera>\d+)")
INPUT = PlainInput(input_size=(3, 128, 256))


def load_rgbnt100(
    *,
    root: str,
    input: PlainInput = INPUT,
    augmentation: ReidAugmentation = REID_AUGMENTATION,
    held_out: HeldOutIdentities = HELD_OUT_IDENTITIES,
) -> ReidSplits:
    """100 vehicles of eight cameras: ``rgbir/{bounding_box_train,query,bounding_box_test}/0001_c1_….jpg``.

    One file is 768 x 128 pixels: RGB, near and thermal infrared of 256 x 128 beside each other.

    Args:
        root: The folder ``rgbir`` or one above it.
        input: What the model takes.
        augmentation: For training images.
        held_out: Identities for validation.

    Raises:
        DataError: A folder is missing or empty, or a name of query or gallery cannot be read.
    """
    folders = find_folders(
        "rgbnt100",
        root,
        ("rgbir", "RGBNT100/rgbir", "RGBNT100"),
        {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    )
    parts = {
        part: without_junk(gather(read_name(NAME, path, "0001_c1….jpg") for path in images_in(folder)))
        for part, folder in folders.items()
    }
    return reid_splits(
        "rgbnt100",
        parts,
        modalities=SPECTRA,
        input=input,
        augmentation=augmentation,
        held_out=held_out,
        read=read_strip,
    )


def read_strip(path: str) -> list[Image.Image]:
    """The three pictures in one file, each twice as wide as high.

    Raises:
        UnreadableImage: The file cannot be read or has another shape.
    """
    strip = read_image(path)
    width, height = strip.size
    if width != 6 * height:
        raise UnreadableImage(
            path, f"is {width} x {height} pixels; three pictures side by side, six times as wide as high, are needed"
        )
    third = width // 3
    return [strip.crop((i * third, 0, (i + 1) * third, height)) for i in range(3)]
