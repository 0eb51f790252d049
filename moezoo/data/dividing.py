"""Seeded parts: drawn class by class, so that every part has every class in its share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moezoo.data.options import HeldOut
from moezoo.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """Images not read yet, with their labels."""

    items: Sequence[Any]
    labels: np.ndarray
    """(N,) integers."""

    def __len__(self) -> int:
        return len(self.items)

    def select(self, chosen: np.ndarray) -> Samples:
        return Samples([self.items[i] for i in chosen], self.labels[chosen])

    def take_out(self, fraction: float, seed: int) -> tuple[Samples, Samples]:
        """What stays, and the ``fraction`` that is drawn."""
        kept, taken = take_out(self.labels, fraction, seed)
        return self.select(kept), self.select(taken)


def take_out(labels: Sequence[int] | np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices that stay and indices drawn at random, both ascending, stratified by label.

    Of a class of two or more at least one image is drawn and one stays; a class of one image stays whole.
    """
    labels = np.asarray(labels)
    taken = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        number = min(max(round(len(members) * fraction), 1), len(members) - 1)
        # RandomState's stream is frozen for good; the newer generators may change with numpy.
        order = np.random.RandomState([seed, int(label) % 2**32]).permutation(len(members))
        taken[members[order[:number]]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def complete(found: Mapping[str, Samples], held_out: HeldOut, where: str) -> dict[str, Samples]:
    """``train``, ``val`` and ``test``, from whichever of them there are.

    Without a test part the validation part becomes it, as is usual with ImageNet, for choices must not be made on
    what is reported; what is still missing is drawn from the training images. Each such step is logged.

    Raises:
        DataError: A part stays empty.
    """
    parts = dict(found)
    if "test" not in parts and "val" in parts:
        logger.info("%s has no test part: its validation part is the test, and validation is drawn from train", where)
        parts["test"] = parts.pop("val")
    total = len(parts["train"])
    for name, fraction in (("test", held_out.test_fraction), ("val", held_out.val_fraction)):
        if name in parts:
            continue
        share = min(fraction * total / max(len(parts["train"]), 1), 1.0)
        parts["train"], parts[name] = parts["train"].take_out(share, held_out.split_seed)
        logger.info(
            "%s has no %s part: %d of %d training images are drawn for it (split_seed=%d)",
            where, name, len(parts[name]), total, held_out.split_seed,
        )  # fmt: skip
    for name, part in parts.items():
        if not len(part):
            raise DataError(f"{where} has too few images: its {name} part is empty")
    return {name: parts[name] for name in ("train", "val", "test")}
