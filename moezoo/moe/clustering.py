"""Balanced k-means: clusters of equal size."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from moezoo.moe.tracing import has_values

STARTS = 4
ROUNDS = 20


def balanced_clusters(x_NF: Tensor, number: int) -> Tensor:
    """(number, N / number) indices of vectors that lie close together, ascending in each cluster.

    Lloyd's iterations with an assignment in which every cluster has the same size, from a few random starts of which
    the tightest result is taken. Random by torch's generator of the CPU. Vectors without values (meta or fake tensors)
    are dealt out in their order.

    Args:
        x_NF: N vectors; ``number`` divides N.
        number: Clusters.
    """
    if not has_values(x_NF):
        return torch.arange(len(x_NF), device=x_NF.device).view(number, -1)
    x_NF = x_NF.detach().cpu().float()
    runs = [_lloyd(x_NF, number) for _ in range(STARTS if number > 1 else 1)]
    label_N, _ = min(runs, key=lambda run: run[1])
    return label_N.sort(stable=True).indices.view(number, -1)


def _lloyd(x_NF: Tensor, number: int) -> tuple[Tensor, float]:
    """Each vector's cluster, and the sum of squared distances from the clusters' means."""
    label_N = _fill(torch.cdist(x_NF, _spread_out(x_NF, number)).square())
    for _ in range(ROUNDS):
        before_N = label_N
        label_N = _exchange(_distances(x_NF, label_N, number), label_N)
        if torch.equal(label_N, before_N):
            break
    return label_N, float(_distances(x_NF, label_N, number).gather(1, label_N[:, None]).sum())


def _distances(x_NF: Tensor, label_N: Tensor, number: int) -> Tensor:
    """(N, C) squared distances from the clusters' means."""
    sum_CF = x_NF.new_zeros(number, x_NF.shape[1]).index_add(0, label_N, x_NF)
    return torch.cdist(x_NF, sum_CF / (len(x_NF) // number)).square()


def _spread_out(x_NF: Tensor, number: int) -> Tensor:
    """(C, F) some of the vectors, far from each other (Arthur and Vassilvitskii 2007, "k-means++")."""
    chosen = [int(torch.randint(len(x_NF), (), device="cpu"))]
    while len(chosen) < number:
        nearest_N = torch.cdist(x_NF, x_NF[chosen]).square().amin(1)
        nearest_N[chosen] = 0.0
        # Where all lie in one place any will do.
        share_N = nearest_N if nearest_N.sum() > 0 else torch.ones_like(nearest_N)
        chosen.append(int(share_N.multinomial(1)))
    return x_NF[chosen]


def _fill(distance_NC: Tensor) -> Tensor:
    """(N,) a first assignment of equal sizes: the closest pairs first, as long as the cluster has room."""
    N, C = distance_NC.shape
    label, room = [-1] * N, [N // C] * C
    for pair in distance_NC.flatten().argsort(stable=True).tolist():
        i, cluster = divmod(pair, C)
        if label[i] < 0 and room[cluster]:
            label[i] = cluster
            room[cluster] -= 1
    return torch.tensor(label, device="cpu")


def _exchange(distance_NC: Tensor, label_N: Tensor) -> Tensor:
    """A closer assignment of equal sizes: every two clusters divide their members anew, the best way for these two."""
    label_N = label_N.clone()
    for a, b in itertools.combinations(range(distance_NC.shape[1]), 2):
        member_M = ((label_N == a) | (label_N == b)).nonzero()[:, 0]
        order_M = (distance_NC[member_M, a] - distance_NC[member_M, b]).argsort(stable=True)
        half = len(member_M) // 2
        label_N[member_M[order_M[:half]]] = a
        label_N[member_M[order_M[half:]]] = b
    return label_N
