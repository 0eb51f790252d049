"""Distances of queries to a gallery, a few queries at a time, as numbers that order it without ties."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

SCORES = 2**23
"""Distances that are held at a time, 64 MiB. Parts half as large lie in glibc's heap, which they fragment to GiBs."""
FINEST = 30
"""Distances, at most 4, are told apart to 2**-30. In float64 a product of matrices is wrong by far less, so that equal
features are equally far, wherever in the gallery they stand."""

Rows = Callable[[int, int], Tensor]
"""From ``begin`` and ``end`` to the (end - begin, G) float64 distances of these queries."""


def squared_distances(query: Tensor, gallery: Tensor) -> Rows:
    """Squared Euclidean distances of (Q, D) and (G, D) float64 features."""
    own, others = (features.square().sum(-1) for features in (query, gallery))
    buffer = gallery.new_empty(0)

    def rows(begin: int, end: int) -> Tensor:
        nonlocal buffer
        if len(buffer) < end - begin:
            buffer = gallery.new_empty(end - begin, len(gallery))
        out = buffer[: end - begin]
        torch.addmm(others, query[begin:end], gallery.T, alpha=-2, out=out)
        return out.add_(own[begin:end, None])

    return rows


def ordered_rows(rows: Rows, queries: int, gallery: int) -> Iterator[tuple[int, np.ndarray]]:
    """Every query's number and its (G,) :func:`order_keys`. The array is only valid until the next one."""
    for begin, end in parts(queries, gallery):
        for index, keys in enumerate(order_keys(rows(begin, end)).cpu().numpy()):
            yield begin + index, keys


def parts(queries: int, gallery: int) -> Iterator[tuple[int, int]]:
    """Beginnings and ends that part the queries, so that no more than :data:`SCORES` distances (or one query's) are
    held at a time."""
    step = max(1, SCORES // gallery)
    for begin in range(0, queries, step):
        yield begin, min(begin + step, queries)


def order_keys(distances: Tensor) -> Tensor:
    """(B, G) float64 distances, changed in place to whole numbers that rise with the distance and, where two are equal,
    with the place in the row."""
    count = distances.shape[-1]
    places = max(1, math.ceil(math.log2(max(count, 2))))
    fine = min(FINEST, 51 - places)  # a float64 holds whole numbers up to 2**53
    own = torch.arange(count, device=distances.device, dtype=distances.dtype)
    return torch.add(own, distances.mul_(2.0**fine).round_(), alpha=2.0**places, out=distances)
