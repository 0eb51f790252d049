"""Which client has which training images. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from moezoo.errors import ConfigError, DataError
from moezoo.names import did_you_mean

PARTITIONS = ("dirichlet", "by_class", "iid")
DRAWS = 1000
"""Dirichlet draws that are tried until every client has images."""

Partition = str | Sequence[Sequence[int]]


def divide(
    labels: Sequence[int] | np.ndarray,
    *,
    clients: int,
    partition: Partition = "dirichlet",
    alpha: float = 0.3,
    min_images: int = 2,
    seed: int = 0,
) -> list[list[int]]:
    """The indices of each client's images, ascending; every image has one client.

    Args:
        labels: (N,) of all images.
        clients: How many.
        partition: ``iid`` deals images out evenly at random. ``by_class`` gives every class to one client.
            ``dirichlet`` draws for each class the clients' shares of it from a symmetric Dirichlet distribution (Hsu et
            al. 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification").
            Or the indices of every client, ready made.
        alpha: Of the Dirichlet distribution: the smaller, the more the clients differ.
        min_images: Every client has at least as many.
        seed: Of the draw.

    Raises:
        ConfigError: An argument is not allowed, or there are more clients than classes (``by_class``) or images.
        DataError: A client would have too few images.
    """
    labels = np.asarray(labels)
    if type(clients) is not int or clients < 1:
        raise ConfigError(f"clients={clients!r} is not allowed: it must be a whole number of at least 1.")
    if clients * min_images > len(labels):
        raise ConfigError(
            f"clients={clients} is not allowed: each needs at least {min_images} images, and there are {len(labels)}."
        )
    if not isinstance(partition, str):
        return _given(partition, clients, len(labels), min_images)
    random = np.random.RandomState(seed % 2**32)  # its stream is frozen for good
    if partition == "iid":
        order = random.permutation(len(labels))
        return [sorted(part.tolist()) for part in np.array_split(order, clients)]
    classes = np.unique(labels)
    if partition == "by_class":
        if clients > len(classes):
            raise ConfigError(
                f"clients={clients} is not allowed with partition='by_class': there are only {len(classes)} classes."
            )
        dealt = random.permutation(classes)
        return _checked(
            [np.flatnonzero(np.isin(labels, dealt[k::clients])).tolist() for k in range(clients)], min_images
        )
    if partition != "dirichlet":
        raise ConfigError(
            f"partition={partition!r} is not allowed.{did_you_mean(partition, PARTITIONS)} Allowed: "
            f"{', '.join(PARTITIONS)}."
        )
    if not isinstance(alpha, (int, float)) or not 0 < alpha < float("inf"):
        raise ConfigError(f"alpha={alpha!r} is not allowed: it must be above 0.")
    for _ in range(DRAWS):
        parts = _dirichlet(labels, classes, clients, alpha, random)
        if min(map(len, parts)) >= min_images:
            return parts
    raise DataError(
        f"in {DRAWS} draws with alpha={alpha} no one left every one of the {clients} clients at least {min_images} of "
        f"{len(labels)} images: raise alpha, or take fewer clients."
    )


def class_counts(labels: Sequence[int] | np.ndarray, parts: Sequence[Sequence[int]], classes: int) -> list[list[int]]:
    """(clients, classes): each client's images of every class."""
    labels = np.asarray(labels)
    return [np.bincount(labels[list(part)], minlength=classes).tolist() for part in parts]


def _dirichlet(
    labels: np.ndarray, classes: np.ndarray, clients: int, alpha: float, random: np.random.RandomState
) -> list[list[int]]:
    parts: list[list[int]] = [[] for _ in range(clients)]
    for label in classes:
        members = random.permutation(np.flatnonzero(labels == label))
        ends = np.round(np.cumsum(random.dirichlet([alpha] * clients)) * len(members)).astype(int)
        for part, chosen in zip(parts, np.split(members, ends[:-1]), strict=True):
            part += chosen.tolist()
    return [sorted(part) for part in parts]


def _given(partition: Any, clients: int, images: int, min_images: int) -> list[list[int]]:
    parts = [sorted(int(i) for i in part) for part in partition]
    if len(parts) != clients:
        raise ConfigError(f"partition gives images to {len(parts)} clients, clients={clients} is another number.")
    seen = [index for part in parts for index in part]
    if seen and not 0 <= min(seen) <= max(seen) < images:
        raise ConfigError(f"partition has indices from {min(seen)} to {max(seen)}; there are {images} images.")
    if len(set(seen)) != len(seen):
        raise ConfigError("partition gives an image to two clients, or twice to one.")
    return _checked(parts, min_images)


def _checked(parts: list[list[int]], min_images: int) -> list[list[int]]:
    for client, part in enumerate(parts):
        if len(part) < min_images:
            raise DataError(f"client {client} has {len(part)} training images; it needs at least {min_images}.")
    return parts
