"""Digits as a folder of images, for loops and loaders that read files."""

from __future__ import annotations

import numpy as np
import pytest
import timm
from PIL import Image
from sklearn.datasets import load_digits


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """``train/<class>/*.png`` and ``validation/…`` of 16 x 16 RGB images."""
    root = tmp_path_factory.mktemp("digits")
    digits = load_digits()
    for index, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        folder = root / ("validation" if index % 5 == 0 else "train") / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((16, 16), Image.Resampling.BILINEAR)
        picture.convert("RGB").save(folder / f"{index}.png")
    return root


@pytest.fixture(scope="session")
def timm_zoo():
    """timm after ``import moezoo.timm``."""
    import moezoo.timm  # noqa: F401

    return timm
