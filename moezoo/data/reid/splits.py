"""What a re-identification data set comes as: identities to learn, then others to find again by another camera."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from moezoo.data.items import ImageItems
from moezoo.data.skipped import Skipped
from moezoo.data.splits import Shown

NO_SCENE = -1
"""The scene of an item where a data set has none."""
JUNK = -1
"""The identity of false detections, which count neither for nor against a match. 0 are distractors and stay."""


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

    def joined(self, other: ReidImages) -> ReidImages:
        """These images, then those of ``other``, which are read and prepared as these are and keep their identities."""
        both = copy.copy(self)
        both.items = [*self.items, *other.items]
        for name in ("identities", "cameras", "scenes"):
            setattr(both, name, np.concatenate([getattr(self, name), getattr(other, name)]))
        both.label_names = tuple(sorted({*self.label_names, *other.label_names}))
        return both

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, int] | Skipped:
        images = self.image(index)
        if isinstance(images, Skipped):
            return images
        return images, int(self.identities[index]), int(self.cameras[index]), int(self.scenes[index])


class ReidPart(Dataset):
    """What one evaluation reads: every image of its queries and of its gallery, once. Items as of the images.

    Args:
        images: All of them.
        query_indices: (Q,) Which of them are queries.
        gallery_indices: (G,) Among which they are to be found again; the same ones where a set is published so.
    """

    def __init__(self, images: ReidImages, query_indices: np.ndarray, gallery_indices: np.ndarray):
        self.images = images
        self.query_indices = query_indices
        self.gallery_indices = gallery_indices

    @classmethod
    def of(cls, query: ReidImages, gallery: ReidImages) -> ReidPart:
        """The queries first, then the gallery; where both hold the same items they are read once."""
        if query.items == gallery.items:
            every = np.arange(len(query))
            return cls(query, every, every)
        images = query.joined(gallery)
        return cls(images, np.arange(len(query)), np.arange(len(query), len(images)))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int, int] | Skipped:
        return self.images[index]

    def describe(self, index: int) -> str:
        """Where the image comes from."""
        return self.images.describe(index)

    @property
    def num_queries(self) -> int:
        return len(self.query_indices)

    @property
    def num_gallery(self) -> int:
        return len(self.gallery_indices)

    @property
    def has_scenes(self) -> bool:
        """Whether the scene, in the place of the camera, tells which matches count."""
        return bool((self.images.scenes[self.query_indices] != NO_SCENE).any())

    @property
    def protocol(self) -> str:
        """That of :func:`moezoo.eval.reid_metrics` which the part asks for."""
        return "msvr310" if self.has_scenes else "market1501"

    @property
    def unmatched_queries(self) -> int:
        """Queries without a right answer: no gallery image of that identity by another camera or, where there are
        scenes, in another scene. Metrics leave them out."""
        places = self.images.scenes if self.has_scenes else self.images.cameras
        seen: dict[int, set[int]] = {}
        for index in self.gallery_indices.tolist():
            seen.setdefault(int(self.images.identities[index]), set()).add(int(places[index]))
        return sum(
            not seen.get(int(self.images.identities[index]), set()) - {int(places[index])}
            for index in self.query_indices.tolist()
        )

    def sides(self, features: Tensor) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Query and gallery as :func:`moezoo.eval.reid_metrics` takes them.

        Args:
            features: (N, D), of all images in their order.
        """
        own = self.images.identities, self.images.cameras, self.images.scenes
        query, gallery = (
            (features[torch.from_numpy(rows).to(features.device)], *(each[rows] for each in own))
            for rows in (self.query_indices, self.gallery_indices)
        )
        return query, gallery


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
    val: ReidPart | None = None
    """Further identities, neither learnt nor among those of the test, to choose the best epoch by; ``None`` where the
    option ``val_identities`` is 0."""

    @property
    def num_identities(self) -> int:
        """Identities to learn."""
        return len(self.train.label_names)

    @property
    def test(self) -> ReidPart:
        """Query and gallery as one data set."""
        return ReidPart.of(self.query, self.gallery)

    @property
    def unmatched_queries(self) -> int:
        """Queries of the test without a right answer, as :attr:`ReidPart.unmatched_queries`."""
        return self.test.unmatched_queries

    @property
    def has_scenes(self) -> bool:
        """Whether the scene, in the place of the camera, tells which matches count."""
        return self.test.has_scenes

    @property
    def protocol(self) -> str:
        """That of :func:`moezoo.eval.reid_metrics` which the set asks for."""
        return self.test.protocol
