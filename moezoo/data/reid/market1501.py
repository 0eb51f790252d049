"""Market-1501: persons, six cameras, one spectrum."""

from __future__ import annotations

import re

from moezoo.data.options import HELD_OUT_IDENTITIES, HeldOutIdentities, PlainInput
from moezoo.data.reid.scan import (
    REID_AUGMENTATION,
    REID_INPUT,
    find_folders,
    gather,
    images_in,
    read_name,
    read_one,
    reid_splits,
    without_junk,
)
from moezoo.data.reid.splits import ReidSplits
from moezoo.data.reid.transforms import ReidAugmentation

NAME = re.compile(r"(?P<identity>-?\d+)_c(?P<camera>\d)")


def load_market1501(
    *,
    root: str,
    input: PlainInput = REID_INPUT,
    augmentation: ReidAugmentation = REID_AUGMENTATION,
    held_out: HeldOutIdentities = HELD_OUT_IDENTITIES,
) -> ReidSplits:
    """1,501 persons of six cameras: ``{bounding_box_train,query,bounding_box_test}/0002_c1s1_000451_03.jpg``.

    Args:
        root: That folder (``Market-1501-v15.09.15``) or one above it.
        input: What the model takes.
        augmentation: For training images.
        held_out: Identities for validation.

    Raises:
        DataError: A folder is missing or empty, or a name of query or gallery cannot be read.
    """
    folders = find_folders(
        "market1501",
        root,
        ("Market-1501-v15.09.15", "market1501/Market-1501-v15.09.15", "market1501", "Market-1501"),
        {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"},
    )
    parts = {
        part: without_junk(gather(read_name(NAME, path, "0002_c1….jpg") for path in images_in(folder)))
        for part, folder in folders.items()
    }
    return reid_splits(
        "market1501",
        parts,
        modalities=("RGB",),
        input=input,
        augmentation=augmentation,
        held_out=held_out,
        read=read_one,
    )
