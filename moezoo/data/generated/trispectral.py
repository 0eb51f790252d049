"""Figures seen in visible, near and thermal infrared light, told apart by cues of known spectrum and scale.

Each spectrum has a coarse cue (what a large part of the figure is like) and a fine one (a weave of three or five
pixels, whose mean is that of the coarse cue). A cue has four levels, drawn for each identity and independent of the
others; one that is not among ``cues`` changes from image to image and says nothing. So a model's use of a spectrum
or a scale can be measured: leave one cue, and see whether identities are still found. Small parts of a figure show its
coarse cues too; with a ``patchwork`` they do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from moezoo.data.generated.canvas import check_at_least, check_share
from moezoo.data.generated.trispectral_figures import CUES, DEPTHS, LEVELS, MAX_DEPTH, MAX_PATCHWORK, FigurePainter
from moezoo.data.options import PlainInput
from moezoo.data.reid.scan import REID_AUGMENTATION, REID_INPUT, SPECTRA
from moezoo.data.reid.splits import ReidImages, ReidPart, ReidSplits, Sighting
from moezoo.data.reid.transforms import ReidAugmentation, ReidPrepare
from moezoo.errors import ConfigError
from moezoo.names import did_you_mean


class TrispectralImages(ReidImages):
    """Sightings that also know the cues they show."""

    read: FigurePainter

    def levels(self, index: int) -> dict[str, int]:
        """The level of every cue in this image, the identity's own or, for a cue without meaning, the image's."""
        return dict(zip(CUES, (int(v) for v in self.read.levels(self.items[index])), strict=True))


def load_trispectral(
    *,
    train_identities: int = 96,
    val_identities: int = 24,
    test_identities: int = 48,
    cameras: int = 4,
    new_cameras: bool = True,
    images_per_camera: int = 3,
    cues: tuple[str, ...] = CUES,
    noise: float = 0.03,
    depths: tuple[float, float, float] = DEPTHS,
    patchwork: float = 0.0,
    seed: int = 0,
    input: PlainInput = REID_INPUT,
    augmentation: ReidAugmentation = REID_AUGMENTATION,
) -> ReidSplits:
    """Figures in RGB, near and thermal infrared with planted cues, for re-identification. Generated.

    ``part.levels(index)`` says which level of each cue an image shows.

    Args:
        train_identities: Identities to learn.
        val_identities: Others, to choose the best epoch by; 0 for none. The other parts are the same either way.
        test_identities: Others, to be found again.
        cameras: Of each part. They differ in brightness and background.
        new_cameras: Those of validation and test are no cameras that the training images were taken by.
        images_per_camera: Of each identity; one of them is a query.
        cues: Which cues tell identities apart; the others are random in each image.
        noise: Standard deviation of the noise, of a range of 1.
        depths: Of the weaves in RGB, NIR and TIR: by how much a stripe is brighter or darker than the mean, of a range
            of 255. The fainter a weave is, the less its spectrum says.
        patchwork: Above 0 the coarse cues are no colour, brightness or warmth, but how patches of 8 pixels lie: which
            of four patterns of theirs keeps its sign over squares of 32 pixels. This is the contrast of each pattern,
            of a range of 255. Neither a patch nor the mean of the picture then shows a coarse cue.
        seed: Of identities and images.
        input: What the model takes.
        augmentation: For training images.
    """
    check_at_least(1, train_identities=train_identities, test_identities=test_identities)
    check_at_least(2, cameras=cameras, images_per_camera=images_per_camera)
    check_at_least(0, seed=seed, val_identities=val_identities)
    check_share(noise=noise)
    if len(depths) != len(SPECTRA) or not all(0 <= depth <= MAX_DEPTH for depth in depths):
        raise ConfigError(
            f"depths={list(depths)} is not allowed: it must be {len(SPECTRA)} numbers in 0 to {MAX_DEPTH:g}, one for "
            f"each of {', '.join(SPECTRA)}; more would be cut off."
        )
    if not 0 <= patchwork <= MAX_PATCHWORK:
        raise ConfigError(
            f"patchwork={patchwork!r} is not allowed: it must be from 0 (none) to {MAX_PATCHWORK:g}; more would be cut "
            "off."
        )
    number = train_identities + test_identities + val_identities
    painter = _painter(tuple(cues), number, noise, tuple(depths), patchwork, seed)

    def images(identities: range, place: int, takes: range, augmented: bool = False) -> TrispectralImages:
        """``place``: of the part among train, test and validation."""
        own = range(place * cameras, (place + 1) * cameras) if new_cameras else range(cameras)
        return TrispectralImages(
            [Sighting((i, c, t), i, c) for i in identities for c in own for t in takes],
            ReidPrepare(input, augmentation if augmented else None),
            relabel=augmented,
            read=painter,
            name_of=_name,
        )

    everyone = range(number)
    learnt = everyone[:train_identities]
    tested = everyone[train_identities : train_identities + test_identities]
    chosen_by = everyone[train_identities + test_identities :]
    first, others = range(1), range(1, images_per_camera)
    return ReidSplits(
        "trispectral (generated)",
        train=images(learnt, 0, range(images_per_camera), augmented=True),
        query=images(tested, 1, first),
        gallery=images(tested, 1, others),
        val=ReidPart.of(images(chosen_by, 2, first), images(chosen_by, 2, others)) if val_identities else None,
        modalities=SPECTRA,
        mean=input.channel_mean,
        std=input.channel_std,
    )


@lru_cache(maxsize=1)  # to paint costs more than to train on it: many short trainings share one painter
def _painter(
    cues: tuple[str, ...], number: int, noise: float, depths: tuple[float, ...], patchwork: float, seed: int
) -> FigurePainter:
    return FigurePainter(_codes(cues, number, seed), noise, seed, depths, patchwork)


def _codes(cues: Sequence[str], number: int, seed: int) -> np.ndarray:
    """(identities, cues) levels, -1 for a cue without meaning; no two identities are alike."""
    for cue in cues:
        if cue not in CUES:
            raise ConfigError(f"cues: {cue!r} is not a cue.{did_you_mean(cue, CUES)} Allowed: {', '.join(CUES)}.")
    used = [i for i, cue in enumerate(CUES) if cue in cues]
    possible = LEVELS ** len(used)
    if number > possible:
        raise ConfigError(
            f"train_identities + test_identities + val_identities = {number} is not allowed with {len(used)} cues: "
            f"they tell {possible} identities apart."
        )
    chosen = np.random.default_rng(seed).permutation(possible)[:number]
    codes = np.full((number, len(CUES)), -1)
    for place, column in enumerate(used):
        codes[:, column] = chosen // LEVELS**place % LEVELS
    return codes


def _name(item: tuple[int, int, int]) -> str:
    return f"trispectral identity {item[0]}, camera {item[1]}, image {item[2]}"
