"""What all re-identification folders have in common: names that say who was seen, folders that must be there."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moezoo.data.image_folder import is_image_name
from moezoo.data.images import read_image
from moezoo.data.options import HeldOutIdentities, PlainInput
from moezoo.data.reid.splits import JUNK, NO_SCENE, ReidImages, ReidPart, ReidSplits, Sighting
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


def without_junk(part: Part) -> Part:
    """The part without false detections, which some sets hold among the others."""
    return Part([s for s in part.sightings if s.identity != JUNK], part.faults)


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
    held_out: HeldOutIdentities,
    **reading: Any,
) -> ReidSplits:
    """The result, after the checks that all sets need.

    Raises:
        DataError: A part is empty, an evaluation part has a file that cannot be used, an identity is in the training
            and an evaluation part, no query has a match, or fewer than two identities would be left to learn.
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
    train, aside = set_aside(name, parts["train"].sightings, held_out)
    plain = ReidPrepare(input)

    def images(sightings: list[Sighting]) -> ReidImages:
        return ReidImages(sightings, plain, **reading)

    splits = ReidSplits(
        name,
        train=ReidImages(train, ReidPrepare(input, augmentation), relabel=True, skip_unreadable=True, **reading),
        query=images(parts["query"].sightings),
        gallery=images(parts["gallery"].sightings),
        modalities=modalities,
        mean=input.channel_mean,
        std=input.channel_std,
        left_out=tuple(faults),
        # As RGBNT201 is tested: every image is looked for among all others.
        val=ReidPart.of(images(aside), images(aside)) if aside else None,
    )
    check_answers(f"{name}:", splits.test)
    if splits.val is not None:
        check_answers(f"{name}, the {held_out.val_identities} identities set aside for validation:", splits.val)
    return splits


def check_answers(where: str, part: ReidPart) -> None:
    """Warn of queries that have no right answer.

    Raises:
        DataError: None has one, so that there is nothing to measure.
    """
    unmatched = part.unmatched_queries
    how = "in another scene" if part.has_scenes else "by another camera"
    if unmatched == part.num_queries:
        raise DataError(f"{where} not one of {unmatched} queries has a match in the gallery, {how}: nothing to measure")
    if unmatched:
        logger.warning(
            "%s %d of %d queries have no match in the gallery, %s; metrics leave them out",
            where,
            unmatched,
            part.num_queries,
            how,
        )


def set_aside(
    name: str, sightings: list[Sighting], held_out: HeldOutIdentities
) -> tuple[list[Sighting], list[Sighting]]:
    """Those to learn and those of ``held_out.val_identities`` identities drawn by its seed.

    Raises:
        DataError: Fewer than two identities would be left to learn.
    """
    every = sorted({s.identity for s in sightings})
    if not held_out.val_identities:
        return sightings, []
    if held_out.val_identities > len(every) - 2:
        raise DataError(
            f"{name}: val_identities={held_out.val_identities} of {len(every)} training identities would leave fewer "
            "than two to learn"
        )
    order = np.random.default_rng(held_out.split_seed).permutation(len(every))
    drawn = {every[i] for i in order[: held_out.val_identities]}
    return [s for s in sightings if s.identity not in drawn], [s for s in sightings if s.identity in drawn]


def _example(faults: list[Skipped]) -> str:
    return f"the first: {faults[0].path} {faults[0].reason}"
