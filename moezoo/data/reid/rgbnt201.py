"""RGBNT201: persons in three spectra, a file for each."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

from moezoo.data.options import HELD_OUT_IDENTITIES, HeldOutIdentities, PlainInput
from moezoo.data.reid.scan import (
    REID_AUGMENTATION,
    REID_INPUT,
    SPECTRA,
    find_folders,
    first_path,
    gather,
    images_in,
    read_each,
    read_name,
    reid_splits,
)
from moezoo.data.reid.splits import ReidSplits, Sighting
from moezoo.data.reid.transforms import ReidAugmentation
from moezoo.data.skipped import Skipped

NAME = re.compile(r"(?P<identity>\d{6})_cam(?P<camera>\d)")
FOLDERS = ("RGB", "NI", "TI")


def load_rgbnt201(
    *,
    root: str,
    input: PlainInput = REID_INPUT,
    augmentation: ReidAugmentation = REID_AUGMENTATION,
    held_out: HeldOutIdentities = HELD_OUT_IDENTITIES,
) -> ReidSplits:
    """201 persons of four cameras: ``{train_171,test}/{RGB,NI,TI}/000258_cam1_0_00.jpg``, the same names in all three.

    Query and gallery are both the whole test folder, as published.

    Args:
        root: That folder or the one above it.
        input: What the model takes.
        augmentation: For training images.
        held_out: Identities for validation.

    Raises:
        DataError: A folder is missing or empty; in the test part a name cannot be read or a spectrum is missing.
    """
    folders = find_folders("rgbnt201", root, ("RGBNT201",), {"train": "train_171", "test": "test"})
    train, test = (gather(_sightings(folders[part])) for part in ("train", "test"))
    return reid_splits(
        "rgbnt201",
        {"train": train, "query": test, "gallery": test},
        modalities=SPECTRA,
        input=input,
        augmentation=augmentation,
        held_out=held_out,
        read=read_each,
        name_of=first_path,
    )


def _sightings(folder: Path) -> Iterator[Sighting | Skipped]:
    names = sorted({path.name for kind in FOLDERS if (folder / kind).is_dir() for path in images_in(folder / kind)})
    for name in names:
        yield with_spectra([folder / kind / name for kind in FOLDERS], NAME, "000258_cam1_….jpg")


def with_spectra(paths: list[Path], pattern: re.Pattern[str], form: str) -> Sighting | Skipped:
    """The sighting of files that show the same in each spectrum, all of which must be there."""
    missing = [str(path) for path in paths if not path.is_file()]
    there = next(path for path in paths if str(path) not in missing)
    if missing:
        return Skipped(str(there), f"is not there in every spectrum: {', '.join(missing)} missing")
    seen = read_name(pattern, there, form)
    return seen if isinstance(seen, Skipped) else dataclasses.replace(seen, item=tuple(map(str, paths)))
