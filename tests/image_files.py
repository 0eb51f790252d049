"""Image files of every kind for the tests of prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def save_digit(index: int, path: Path, **options) -> Path:
    """One of scikit-learn's digits as a file, 16 x 16, which the packaged model reads."""
    pixels = (load_digits().images[index] * 255 / 16).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((16, 16), Image.Resampling.BICUBIC).save(path, **options)
    return path


def damaged_files(folder: Path) -> dict[str, Path]:
    """Files that are no whole image, by what is wrong with them."""
    good = save_digit(0, folder / "good.jpg", quality=95).read_bytes()
    contents = {
        "empty": b"",
        "truncated": good[: len(good) // 2],
        "text": b"<html>404 not found</html>",
        "header": good[:20],
    }
    paths = {}
    for name, content in contents.items():
        paths[name] = folder / f"{name}.jpg"
        paths[name].write_bytes(content)
    (folder / "good.jpg").unlink()
    return paths
