"""Reading image files: what a viewer shows comes back, and whatever cannot be read says why."""

import io
import logging
import pickle
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from moezoo.data.images import decode_image, read_image, to_rgb
from moezoo.data.skipped import Skipped
from moezoo.errors import DataError, UnreadableImage


def picture(width=6, height=4):
    """Every pixel differs, so that a turn or a mirror shows."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 40, y * 60, 200 - x * 10 - y * 5], axis=-1).astype(np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def pixels(path):
    image = read_image(path)
    assert image.mode == "RGB"
    return np.asarray(image).astype(int)


def test_exif_orientation_is_applied_in_all_eight_cases(tmp_path):
    upright = picture()
    stored = {  # what a camera stores so that the orientation turns it upright
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(upright, -1),
    }
    for orientation, array in stored.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = saved(tmp_path / f"{orientation}.png", Image.fromarray(np.ascontiguousarray(array)), exif=exif)
        assert np.array_equal(pixels(path), upright), orientation


def test_damaged_orientation_leaves_the_picture_as_stored_and_says_so(tmp_path, caplog):
    path = saved(tmp_path / "a.png", Image.fromarray(picture()), exif=b"Exif\0\0no tiff header here")
    with caplog.at_level(logging.WARNING):
        assert np.array_equal(pixels(path), picture())
    assert str(path) in caplog.text


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    deep = np.array([[0, 257, 128 * 257], [65535, 1000, 60000]], dtype=np.uint16)
    want = np.repeat(np.rint(deep / 257)[..., None], 3, axis=-1)
    for name in ("a.png", "a.tif", "a.pgm"):
        assert np.array_equal(pixels(saved(tmp_path / name, Image.fromarray(deep))), want), name
    dark = Image.fromarray(np.array([[0, 100, 200]], dtype=np.uint16))
    assert pixels(saved(tmp_path / "dark.png", dark)).max() == 1  # the scale is the type's, not the picture's


def test_other_modes_become_rgb(tmp_path):
    rgb = Image.fromarray(picture())
    grey = np.asarray(rgb.convert("L")).astype(int)
    assert np.array_equal(pixels(saved(tmp_path / "grey.png", rgb.convert("L"))), np.repeat(grey[..., None], 3, -1))
    palette = rgb.quantize(24)
    assert np.array_equal(pixels(saved(tmp_path / "p.png", palette)), np.asarray(palette.convert("RGB")))
    cmyk = pixels(saved(tmp_path / "cmyk.jpg", Image.new("CMYK", (8, 8), (255, 0, 0, 0))))
    assert np.abs(cmyk - [0, 255, 255]).max() < 8
    bilevel = pixels(saved(tmp_path / "one.png", Image.new("1", (2, 2), 1)))
    assert np.array_equal(bilevel, np.full((2, 2, 3), 255))
    unit = saved(tmp_path / "f.tif", Image.fromarray(np.array([[0.0, 0.5, 1.0]], dtype=np.float32)))
    assert pixels(unit)[0, :, 0].tolist() == [0, 128, 255]


def test_transparency_is_shown_on_white(tmp_path):
    rgba = Image.new("RGBA", (3, 1), (10, 20, 30, 255))
    rgba.putpixel((1, 0), (10, 20, 30, 0))
    for name, image in (("rgba.png", rgba), ("la.png", rgba.convert("LA")), ("p.gif", rgba)):
        seen = pixels(saved(tmp_path / name, image))
        assert seen[0, 1].tolist() == [255, 255, 255], name
        assert seen[0, 0].max() < 60, name
    keyed = saved(tmp_path / "key.png", Image.new("RGB", (2, 2), (1, 2, 3)), transparency=(1, 2, 3))
    assert pixels(keyed).min() == 255


def png_of(width, height):
    """A PNG that claims a size and holds nothing."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def broken(tmp_path):
    """Path to what its error must say."""
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.effect_noise((64, 64), 80).save(jpeg, "JPEG")
    Image.effect_noise((64, 64), 80).save(png, "PNG")
    flipped = bytearray(png.getvalue())
    flipped[len(flipped) // 2] ^= 0xFF
    contents = {
        "cut.jpg": (jpeg.getvalue()[:-400], "truncated"),
        "cut.png": (png.getvalue()[:-400], "damaged"),
        "flipped.png": (bytes(flipped), "damaged"),
        "empty.jpg": (b"", r"is empty \(0 bytes\)"),
        "text.jpg": (b"hello", "is not an image"),
        "page.png": (b"<!DOCTYPE html><html></html>", "is not an image"),
        "evil.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image"),
        "bomb.png": (png_of(60000, 60000), "too large.*MAX_IMAGE_PIXELS"),
        "hollow.png": (png_of(4, 4), "damaged"),
    }
    found = {}
    for name, (data, says) in contents.items():
        (tmp_path / name).write_bytes(data)
        found[tmp_path / name] = says
    (tmp_path / "folder.jpg").mkdir()
    nan = saved(tmp_path / "nan.tif", Image.fromarray(np.array([[np.nan, 0.5]], dtype=np.float32)))
    return {
        **found,
        tmp_path / "folder.jpg": "is a folder",
        tmp_path / "missing.jpg": "does not exist",
        tmp_path / ("x" * 300 + ".jpg"): "cannot be opened",
        nan: "pixel values",
    }


def test_what_cannot_be_read_is_an_error_with_path_and_reason(broken):
    for path, says in broken.items():
        with pytest.raises(UnreadableImage, match=says) as caught:
            read_image(path)
        assert caught.value.path == str(path)
        assert str(caught.value) == f"{path}: {caught.value.reason}"
        assert isinstance(caught.value, DataError)
    with pytest.raises(UnreadableImage, match="is not a path"):
        read_image("a\0b.jpg")
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_damage_anywhere_is_an_error_or_an_image_and_nothing_else():
    draw = random.Random(0)
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (20, 24, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    sources = []
    for form, options in (("JPEG", {"exif": exif}), ("PNG", {"exif": exif}), ("GIF", {}), ("TIFF", {}), ("BMP", {})):
        file = io.BytesIO()
        image.save(file, form, **options)
        sources.append(file.getvalue())
    outcomes = set()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(400):
            data = bytearray(draw.choice(sources))
            for _ in range(draw.choice((0, 1, 8))):
                data[draw.randrange(min(len(data), 300))] = draw.randrange(256)
            try:
                outcomes.add(decode_image(bytes(data[: draw.choice((None, len(data) // 2))]), "x").mode)
            except UnreadableImage as error:
                outcomes.add(error.path)
    assert outcomes == {"RGB", "x"}


def test_the_error_survives_the_way_out_of_a_worker():
    error = UnreadableImage("a.jpg", "is empty")
    again = pickle.loads(pickle.dumps(error))
    assert (again.path, again.reason, str(again)) == ("a.jpg", "is empty", "a.jpg: is empty")
    assert str(UnreadableImage(str(error))) == str(error)  # as torch's DataLoader raises it anew
    assert pickle.loads(pickle.dumps(Skipped("a.jpg", "is empty"))) == Skipped("a.jpg", "is empty")


def test_bytes_and_open_images_are_read_by_the_same_rules(tmp_path):
    path = saved(tmp_path / "a.png", Image.fromarray(picture()))
    assert np.array_equal(np.asarray(decode_image(path.read_bytes(), "row 3")), picture())
    with pytest.raises(UnreadableImage, match=r"^row 3: .*damaged"):
        decode_image(path.read_bytes()[:60], "row 3")
    with pytest.raises(ValueError, match="65535"):
        to_rgb(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)))


def test_names_with_spaces_and_any_script_are_read(tmp_path):
    folder = tmp_path / "ein Ordner mit Umläuten äöü" / "図"
    folder.mkdir(parents=True)
    for name in ("a b.png", "чат.png", "💡.png", "n" * 200 + ".png"):
        assert np.array_equal(pixels(saved(folder / name, Image.fromarray(picture()))), picture())
