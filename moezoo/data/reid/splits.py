"""What a re-identification data set comes as: identities to learn, then others to find again by another camera."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from moezoo.data.items import ImageItems
from moezoo.data.skipped import Skipped
from moezoo.data.splits import Shown

NO_SCENE = -1
"""The scene of an item where a data set has none."""


@dataclass(frozen=True)
class Sighting:
    """One identity seen once: a file for each spectrum, or one file, or a number for a generator."""

    item: Any
    identity: int
    camera: int
    scene: int = NO_SCENE


class ReidImages(ImageItems):
    """Items ``(images, identity, camera, scene)``.

    ``images`` is (M, C, H, W), M the number of modalities, in the order of ``ReidSplits.modalities``; the rest are
    ints, ``scene`` -1 where the data set has none.

    Args:
        sightings: One per item.
        transform: From the list of M Pillow images to the tensor.
        relabel: Number the identities 0, 1, … in ascending order, as a classifier needs them.
        reading: As for :class:`~moezoo.data.ImageItems`.
    """

    def __init__(
        self,
        sightings: Sequence[Sighting],
        transform: Callable[[Any], Tensor],
        *,
        relabel: bool = False,
        **reading: Any,
    ):
        super().__init__([s.item for s in sightings], transform, **reading)
        original = np.array([s.identity for s in sightings], dtype=np.int64)
        names, labels = np.unique(original, return_inverse=True)
        self.label_names: tuple[int, ...] = tuple(names.tolist())
        """The data set's own numbers of the identities, ascending."""
        self.identities = labels.reshape(-1) if relabel else original
        """(N,) the identity of each item, as the items have it."""
        self.cameras = np.array([s.camera for s in sightings], dtype=np.int64)
        self.scenes = np.array([s.scene for s in sightings], dtype=np.int64)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, int] | Skipped:
        images = self.image(index)
        if isinstance(images, Skipped):
            return images
        return images, int(self.identities[index]), int(self.cameras[index]), int(self.scenes[index])


@dataclass(frozen=True)
class ReidSplits(Shown):
    """A re-identification data set. The identities of query and gallery are not among those of ``train``."""

    name: str
    train: ReidImages
    """Augmented; identities are numbered from 0, ``train.label_names`` are their own numbers."""
    query: ReidImages
    """Each is to be found again in the gallery. Identities have their own numbers."""
    gallery: ReidImages
    """May hold distractors (identity 0 in Market-1501), which match no query."""
    modalities: tuple[str, ...]
    """``("RGB",)`` or ``("RGB", "NIR", "TIR")``."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    left_out: tuple[Skipped, ...] = ()
    """Training images that are not used, with the reason: a spectrum is missing, a name cannot be read."""

    @property
    def num_identities(self) -> int:
        """Identities to learn."""
        return len(self.train.label_names)

    @property
    def unmatched_queries(self) -> int:
        """Queries without a right answer: no gallery image of that identity by another camera or, where there are
        scenes, in another scene. Metrics leave them out."""
        seen: dict[int, set[int]] = {}
        for identity, place in self._places(self.gallery):
            seen.setdefault(identity, set()).add(place)
        return sum(not seen.get(identity, set()) - {place} for identity, place in self._places(self.query))

    @property
    def has_scenes(self) -> bool:
        """Whether the scene, in the place of the camera, tells which matches count."""
        return bool((self.query.scenes != NO_SCENE).any())

    def _places(self, part: ReidImages) -> Iterator[tuple[int, int]]:
        places = part.scenes if self.has_scenes else part.cameras
        return zip(part.identities.tolist(), places.tolist(), strict=True)
