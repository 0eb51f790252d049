"""MSVR310: vehicles in three spectra, in several scenes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from moezoo.data.options import HELD_OUT_IDENTITIES, HeldOutIdentities, PlainInput
from moezoo.data.reid.rgbnt201 import with_spectra
from moezoo.data.reid.scan import (
    REID_AUGMENTATION,
    SPECTRA,
    find_folders,
    first_path,
    gather,
    images_in,
    read_each,
    reid_splits,
)
from moezoo.data.reid.splits import ReidSplits, Sighting
from moezoo.data.reid.transforms import ReidAugmentation
from moezoo.data.skipped import Skipped

NAME = re.compile(r"(?P<identity>\d{4})..(?P<scene>\d{3})..(?P<camera>\d)")
FOLDERS = ("vis", "ni", "th")
INPUT = PlainInput(input_size=(3, 128, 256))


def load_msvr310(
    *,
    root: str,
    input: PlainInput = INPUT,
    augmentation: ReidAugmentation = REID_AUGMENTATION,
    held_out: HeldOutIdentities = HELD_OUT_IDENTITIES,
) -> ReidSplits:
    """310 vehicles: ``{bounding_box_train,query3,bounding_box_test}/<vehicle>/{vis,ni,th}/0001_s001_v1_….jpg``.

    A name holds the vehicle (characters 1 to 4), the scene (7 to 9) and the camera (12). Items have a scene, for in
    evaluation a match in the query's own scene does not count.

    Args:
        root: That folder or the one above it.
        input: What the model takes.
        augmentation: For training images.
        held_out: Identities for validation.

    Raises:
        DataError: A folder is missing or empty; in query or gallery a name cannot be read or a spectrum is missing.
    """
    folders = find_folders(
        "msvr310",
        root,
        ("MSVR310",),
        {"train": "bounding_box_train", "query": "query3", "gallery": "bounding_box_test"},
    )
    return reid_splits(
        "msvr310",
        {part: gather(_sightings(folder)) for part, folder in folders.items()},
        modalities=SPECTRA,
        input=input,
        augmentation=augmentation,
        held_out=held_out,
        read=read_each,
        name_of=first_path,
    )


def _sightings(folder: Path) -> Iterator[Sighting | Skipped]:
    for vehicle in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
        kinds = [vehicle / kind for kind in FOLDERS]
        names = sorted({path.name for kind in kinds if kind.is_dir() for path in images_in(kind)})
        for name in names:
            seen = with_spectra([kind / name for kind in kinds], NAME, "0001_s001_v1….jpg")
            if isinstance(seen, Sighting) and vehicle.name.isdigit() and seen.identity != int(vehicle.name):
                yield Skipped(first_path(seen.item), f"lies in the folder of vehicle {vehicle.name}")
            else:
                yield seen
