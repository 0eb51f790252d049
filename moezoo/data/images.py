"""One careful reader of image files: what it returns is the picture as a viewer shows it, or it says why not.

Turned as EXIF says, palette, grey, CMYK, alpha and 16 bits converted without clipping. A damaged file is never
patched up: no process-wide switch of Pillow (``LOAD_TRUNCATED_IMAGES``) is touched. No torch here.
"""

from __future__ import annotations

import functools
import io
import logging
import os
import stat
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from moezoo.errors import UnreadableImage

logger = logging.getLogger(__name__)

EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pnm", ".avif", ".jp2"}
)
"""Endings, in lower case, by which folders are searched for images."""

FORMATS = ("JPEG", "MPO", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000")
"""What Pillow may try. It knows more, some of which start other programs (EPS runs Ghostscript)."""


def read_image(path: str | os.PathLike[str]) -> Image.Image:
    """The first picture in an image file, in mode RGB, upright.

    Transparent parts are shown on white. 16-bit grey is scaled by 1/257, so that white stays white.

    Raises:
        UnreadableImage: There is no such file, or it is empty, truncated, damaged, no image, or larger than
            ``PIL.Image.MAX_IMAGE_PIXELS`` allows; with ``path`` and ``reason``.
    """
    name = os.fspath(path)
    try:
        status = os.stat(name)
        if stat.S_ISDIR(status.st_mode):
            raise UnreadableImage(name, "is a folder")
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait for ever
            raise UnreadableImage(name, "is not a regular file")
        if status.st_size == 0:
            raise UnreadableImage(name, "is empty (0 bytes)")
        with open(name, "rb") as file:
            return decode_image(file, name)
    except FileNotFoundError:
        raise UnreadableImage(name, "does not exist") from None
    except OSError as error:
        raise UnreadableImage(name, f"cannot be opened: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, UnreadableImage):
            raise
        raise UnreadableImage(name, f"is not a path: {error}") from None  # a null byte


def decode_image(data: bytes | BinaryIO, name: str) -> Image.Image:
    """As :func:`read_image`, from the bytes of a file; ``name`` is what the error calls it.

    Raises:
        UnreadableImage: The bytes are no whole image.
    """
    stream = io.BytesIO(data) if isinstance(data, bytes) else data
    try:
        with Image.open(stream, formats=_formats()) as image:
            image.load()
            return to_rgb(upright(image, name))
    except UnidentifiedImageError:
        raise UnreadableImage(name, "is not an image in a format that can be read") from None
    except Image.DecompressionBombError as error:
        raise UnreadableImage(
            name, f"is too large: {error} Raise PIL.Image.MAX_IMAGE_PIXELS if you trust the file."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files
        raise UnreadableImage(name, f"is damaged: {error or type(error).__name__}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """``image`` in mode RGB: transparency over white, 16-bit and float pixels scaled instead of clipped.

    Raises:
        ValueError: Pixel values whose scale is not known: integers outside 0 to 65535, floats outside 0 to 1.
    """
    if image.mode == "F" or image.mode.startswith("I"):
        image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Deep grey pixels to 0 … 255. The scale is the type's, never the picture's: a dark image stays dark."""
    pixels = np.asarray(image).astype(np.float64)
    top = 1.0 if image.mode == "F" else 65535.0
    if not (pixels.min() >= 0 and pixels.max() <= top):  # written so that NaN fails too
        raise ValueError(
            f"pixel values from {pixels.min():g} to {pixels.max():g}; mode {image.mode} must be 0 to {top:g}"
        )
    return Image.fromarray(np.rint(pixels * (255 / top)).astype(np.uint8))


def upright(image: Image.Image, name: str) -> Image.Image:
    """Turned and mirrored as the file's EXIF orientation says."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # damaged metadata around sound pixels
        logger.warning("%s: its orientation cannot be read (%s); it is used as stored", name, error)
        return image


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
