"""Market-1501: persons, six cameras, one spectrum."""

from __future__ import annotations

import re

from moezoo.data.options import PlainInput
from moezoo.data.reid.scan import (
    REID_AUGMENTATION,
    REID_INPUT,
    Part,
    find_folders,
    gather,
    images_in,
    read_name,
    read_one,
    reid_splits,
)
from moezoo.data.reid.splits import ReidSplits
from moezoo.data.reid.transforms import ReidAugmentation

NAME = re.compile(r"(?P<identity>-?\d+)_c(?P<camera>\d)")
JUNK = -1
"""The identity of false detections, which count neither for nor against a match. 0 are distractors and stay."""


def load_market1501(
    *,
    root: str,
    input: PlainInput = REID_INPUT,
    augmentation: ReidAugmentation = REID_AUGMENTATION,
) -> ReidSplits:
    """1,501 persons of six cameras: ``{bounding_box_train,query,bounding_box_test}/0002_c1s1_000451_03.jpg``.

    Args:
        root: That folder (``Market-1501-v15.09.15``) or one above it.
        input: What the model takes.
        augmentation: For training images.

    Raises:
        DataError: A folder is missing or empty, or a name of query or gallery cannot be read.
    """
    folders = find_folders(
        "market1501",
        root,
        ("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501", "Market-1501"),
        {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    )
    parts = {}
    for part, folder in folders.items():
        found = gather(read_name(NAME, path, "0002_c1….jpg") for path in images_in(folder))
        parts[part] = Part([s for s in found.sightings if s.identity != JUNK], found.faults)
    return reid_splits("market1501", parts, modalities=("RGB",), input=input, augmentation=augmentation, read=read_one)
