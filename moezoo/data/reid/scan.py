"""What all re-identification folders have in common: names that say who was seen, folders that must be there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from moezoo.data.image_folder import is_image_name
from moezoo.data.images import read_image
from moezoo.data.options import PlainInput
from moezoo.data.reid.splits import NO_SCENE, ReidImages, ReidSplits, Sighting
from moezoo.data.reid.transforms import ReidAugmentation, ReidPrepare
from moezoo.data.skipped import Skipped
from moezoo.errors import DataError

logger = logging.getLogger(__name__)

SPECTRA = ("RGB", "NIR", "TIR")
REID_INPUT = PlainInput(input_size=(3, 256, 128))
REID_AUGMENTATION = ReidAugmentation()


class Part(NamedTuple):
    """What a folder holds."""

    sightings: list[Sighting]
    faults: list[Skipped]
    """Files that are not used, with the reason."""


def find_folders(name: str, root: str, inside: Sequence[str], parts: dict[str, str]) -> dict[str, Path]:
    """The folders of the parts, under ``root`` or under one of the folders ``inside`` it.

    Raises:
        DataError: Some are missing; it lists the paths that were looked for.
    """
    base = Path(root).expanduser()
    tried = [base / folder for folder in ("", *inside)]
    for place in tried:
        if all((place / folder).is_dir() for folder in parts.values()):
            return {part: place / folder for part, folder in parts.items()}
    wanted = ", ".join(dict.fromkeys(parts.values()))
    places = ", ".join(map(str, tried))
    raise DataError(f"{name}: no folders {wanted} together under root={str(root)!r}; looked in: {places}")


def images_in(folder: Path) -> list[Path]:
    """Image files, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_image_name(path.name) and path.is_file())


def read_name(pattern: re.Pattern[str], path: Path, form: str) -> Sighting | Skipped:
    """Who was seen where, by the groups ``identity``, ``camera`` and, if there is one, ``scene`` of ``pattern``."""
    match = pattern.match(path.name)
    if match is None:
        return Skipped(str(path), f"has a name that does not say who was seen where: {form} is needed")
    scene = int(match["scene"]) if "scene" in pattern.groupindex else NO_SCENE
    return Sighting(str(path), int(match["identity"]), int(match["camera"]), scene)


def gather(found: Iterable[Sighting | Skipped]) -> Part:
    part = Part([], [])
    for one in found:
        (part.faults if isinstance(one, Skipped) else part.sightings).append(one)  # type: ignore[arg-type]
    return part


def read_one(item: str) -> list:
    """The reader of sets whose sighting is one plain picture."""
    return [read_image(item)]


def read_each(item: tuple[str, ...]) -> list:
    """The reader of sets with a file for each spectrum."""
    return [read_image(path) for path in item]


def first_path(item: tuple[str, ...]) -> str:
    return item[0]


def reid_splits(
    name: str,
    parts: dict[str, Part],
    *,
    modalities: tuple[str, ...],
    input: PlainInput,
    augmentation: ReidAugmentation,
    **reading: Any,
) -> ReidSplits:
    """The result, after the checks that all sets need.

    Raises:
        DataError: A part is empty, an evaluation part has a file that cannot be used, or an identity is in the training
            and an evaluation part.
    """
    for part, (sightings, faults) in parts.items():
        if faults and part != "train":
            raise DataError(
                f"{name}: {len(faults)} files of the {part} part cannot be used, the first: "
                f"{faults[0].path} {faults[0].reason}"
            )
        if not sightings:
            raise DataError(f"{name}: the {part} part has no images" + (f"; {_example(faults)}" if faults else ""))
    learnt = {s.identity for s in parts["train"].sightings}
    for part in ("query", "gallery"):
        if both := sorted(learnt & {s.identity for s in parts[part].sightings}):
            raise DataError(
                f"{name}: {len(both)} identities are in the training and the {part} part, such as {both[0]}"
            )
    faults = parts["train"].faults
    if faults:
        logger.warning("%s: %d training images are left out; %s", name, len(faults), _example(faults))
    data = {
        part: ReidImages(
            sightings,
            ReidPrepare(input, augmentation if part == "train" else None),
            relabel=part == "train",
            skip_unreadable=part == "train",
            **reading,
        )
        for part, (sightings, _) in parts.items()
    }
    splits = ReidSplits(
        name,
        **data,
        modalities=modalities,
        mean=input.channel_mean,
        std=input.channel_std,
        left_out=tuple(faults),
    )
    if unmatched := splits.unmatched_queries:
        logger.warning(
            "%s: %d of %d queries have no match in the gallery, %s; metrics leave them out",
            name,
            unmatched,
            len(splits.query),
            "in another scene" if splits.has_scenes else "by another camera",
        )
    return splits


def _example(faults: list[Skipped]) -> str:
    return f"the first: {faults[0].path} {faults[0].reason}"
