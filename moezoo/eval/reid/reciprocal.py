"""What images share with their reciprocal neighbours, as sparse matrices: the parts of k-reciprocal re-ranking."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse  # type: ignore[import-untyped]
from torch import Tensor

from moezoo.eval.reid.scores import FINEST, order_keys, parts, squared_distances

ROWS = 2048
"""Images whose sets of neighbours are joined at a time."""


def neighbours(features: Tensor, count: int) -> tuple[np.ndarray, Tensor]:
    """(N, count) nearest images, an image itself before all others, and (N,) the distance of the farthest one."""
    rows = squared_distances(features, features)
    order, farthest = [], []
    for begin, end in parts(len(features), len(features)):
        distances = rows(begin, end)
        farthest.append(distances.amax(-1))
        distances[torch.arange(end - begin), torch.arange(begin, end)] = -1.0  # nearer than any copy
        order.append(order_keys(distances).topk(count, largest=False).indices.cpu())
    far = torch.cat(farthest)
    return torch.cat(order).numpy(), torch.where(far > 2.0**-FINEST, far, 1.0)


def expanded(order: np.ndarray, k1: int) -> sparse.csr_array:
    """(N, N) by row an image's reciprocal neighbours, and theirs, as entries that are not 0."""
    whole = _reciprocal(order)
    half = _reciprocal(order[:, : int(np.around(k1 / 2)) + 1])
    size = half.sum(1)
    found = []
    for begin in range(0, len(order), ROWS):
        own = whole[begin : begin + ROWS]
        # A neighbour's nearest ones join if more than two thirds of them are neighbours anyway.
        common = own.multiply(own @ half.T).tocoo()
        joins = 3 * common.data > 2 * size[common.col]
        joining = _ones(common.row[joins], common.col[joins], own.shape)
        found.append(own + joining @ half)
    return sparse.csr_array(sparse.vstack(found))


def _reciprocal(order: np.ndarray) -> sparse.csr_array:
    """(N, N) ones where two images have each other in their lists."""
    count, length = order.shape
    lists = _ones(np.repeat(np.arange(count), length), order.ravel(), (count, count))
    return sparse.csr_array(lists.multiply(lists.T))


def _ones(row: np.ndarray, column: np.ndarray, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(len(row), dtype=np.int32), (row, column)), shape=shape)


def weights(sets: sparse.csr_array, features: Tensor, farthest: Tensor) -> sparse.csr_array:
    """(N, N) the members of every set, weighed by nearness; rows sum to 1."""
    found = np.empty(sets.nnz)
    for begin in range(0, sets.shape[0], ROWS):
        end = min(begin + ROWS, sets.shape[0])
        low, high = sets.indptr[begin], sets.indptr[end]
        row = np.repeat(np.arange(begin, end), np.diff(sets.indptr[begin : end + 1]))
        for first, last in parts(high - low, features.shape[1]):
            one, other = row[first:last], sets.indices[low + first : low + last]
            nearness = (features[one] - features[other]).square().sum(-1) / farthest[one]
            found[low + first : low + last] = (-nearness).exp().cpu()
        found[low:high] /= np.bincount(row - begin, found[low:high], minlength=end - begin)[row - begin]
    return sparse.csr_array((found, sets.indices, sets.indptr), shape=sets.shape)


def averaged(described: sparse.csr_array, order: np.ndarray) -> sparse.csr_array:
    """(N, N) the mean description of every image's nearest ones."""
    count, length = order.shape
    return (_ones(np.repeat(np.arange(count), length), order.ravel(), (count, count)) @ described) / length


def jaccard(own: sparse.csr_array, index: int, others: sparse.csc_array) -> np.ndarray:
    """(G,) distances of one description from all of ``others``."""
    begin, end = own.indptr[index], own.indptr[index + 1]
    there = others[:, own.indices[begin:end]]
    least = np.minimum(there.data, np.repeat(own.data[begin:end], np.diff(there.indptr)))
    common = np.bincount(there.indices, least, minlength=others.shape[0])
    return 1 - common / (2 - common)
