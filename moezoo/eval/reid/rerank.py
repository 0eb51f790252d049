"""k-reciprocal re-ranking (Zhong et al. 2017, "Re-ranking person re-identification with k-reciprocal encoding").

Two images are near if they share their reciprocal neighbours, those that have each other among their nearest ones.
Neighbour lists and encodings are sparse, so that memory grows with (Q + G) x (a few hundred), not with (Q + G) squared.
The nearest neighbours of *every* image among all are needed, so that the time still grows with (Q + G) squared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from moezoo.errors import InputError
from moezoo.eval.reid.scores import Rows, parts, squared_distances
from moezoo.eval.reid.side import unit_features
from moezoo.moe.checks import check_int, check_probability


@dataclass(frozen=True)
class RerankOptions:
    """Of the re-ranking; the defaults are those of the multi-spectral re-identification literature."""

    k1: int = 50
    """Nearest neighbours, of which the reciprocal ones describe an image."""
    k2: int = 15
    """Nearest neighbours, the image itself among them, whose descriptions are averaged; 1 averages nothing."""
    lambda_value: float = 0.3
    """Weight of the distance of the features; the rest is that of the descriptions."""

    def __post_init__(self) -> None:
        check_int("k1", self.k1, low=1)
        check_int("k2", self.k2, low=1)
        check_probability("lambda_value", self.lambda_value)


def rerank_distances(
    query_features: Any, gallery_features: Any, k1: int = 50, k2: int = 15, lambda_value: float = 0.3
) -> Tensor:
    """(Q, G) float32 distances: ``(1 - lambda) * Jaccard + lambda * squared Euclidean``, normalised, on the CPU.

    ``reid_metrics(…, rerank=True)`` does not need them all at once.

    Args:
        query_features: (Q, D), which need not be normalised.
        gallery_features: (G, D).
        k1: As of :class:`RerankOptions`.
        k2: As of :class:`RerankOptions`.
        lambda_value: As of :class:`RerankOptions`.

    Raises:
        ConfigError: A number is out of range.
        InputError: Shapes do not fit, or a feature is NaN or infinite.
    """
    options = RerankOptions(k1, k2, lambda_value)
    query, gallery = (
        unit_features(x, name)
        for x, name in ((query_features, "query_features"), (gallery_features, "gallery_features"))
    )
    if query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"query and gallery features must be equally wide, got {query.shape[1]} and {gallery.shape[1]}"
        )
    rows = reranked_distances(query.to(gallery.device), gallery, options)
    found = torch.empty(len(query), len(gallery))
    for begin, end in parts(len(query), len(gallery)):
        found[begin:end] = rows(begin, end).float()
    return found


def reranked_distances(query: Tensor, gallery: Tensor, options: RerankOptions) -> Rows:
    """Of (Q, D) and (G, D) float64 features of length 1."""
    from moezoo.eval.reid.reciprocal import averaged, expanded, jaccard, neighbours, weights  # these need scipy

    everyone = torch.cat([query, gallery])
    order, farthest = neighbours(everyone, min(max(options.k1 + 1, options.k2), len(everyone)))
    described = weights(expanded(order[:, : options.k1 + 1], options.k1), everyone, farthest)
    if options.k2 > 1:
        described = averaged(described, order[:, : options.k2])
    own, others = described[: len(query)], described[len(query) :].tocsc()
    plain = squared_distances(query, gallery)

    def rows(begin: int, end: int) -> Tensor:
        shared = torch.from_numpy(np.stack([jaccard(own, i, others) for i in range(begin, end)]))
        features = plain(begin, end) / farthest[begin:end, None]
        return features.mul_(options.lambda_value).add_(shared.to(features), alpha=1 - options.lambda_value)

    return rows
