"""mAP, mINP and the CMC curve of features."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import numpy as np

from moezoo.data.reid.splits import JUNK
from moezoo.errors import ConfigError, InputError
from moezoo.eval.reid.protocols import Protocol, protocol_of
from moezoo.eval.reid.ranks import match_ranks
from moezoo.eval.reid.rerank import RerankOptions, reranked_distances
from moezoo.eval.reid.scores import Rows, squared_distances
from moezoo.eval.reid.side import Side, side_of
from moezoo.moe.checks import check_int


class ReidMetrics(TypedDict):
    """All but the numbers of queries are fractions, NaN where no query has a match."""

    mAP: float
    """Mean over the queries of the average precision: the mean of the precision at each match."""
    mINP: float
    """Mean of the matches' number over the rank of the last one (Ye et al. 2021, "Deep learning for person
    re-identification")."""
    cmc: list[float]
    """At index k - 1: the share of the queries with a match among the first k."""
    num_queries: int
    num_valid_queries: int
    """Those that have a match; the others are in no mean."""


def reid_metrics(
    query: Sequence[Any],
    gallery: Sequence[Any],
    protocol: str = "market1501",
    *,
    max_rank: int = 50,
    rerank: bool | RerankOptions = False,
) -> ReidMetrics:
    """Rank the gallery for every query by the squared Euclidean distance of the normalised features.

    Gallery images that are equally far keep the gallery's order. Distances are held in parts: 100,000 queries in a
    gallery of as many take about as much memory as the features.

    Args:
        query: ``(features (N, D), identities (N,), cameras (N,)[, scenes (N,)])``, tensors, arrays or lists.
        gallery: The same of the images among which they are to be found again.
        protocol: Which gallery images count for a query: ``market1501``, ``rgbnt201`` and ``rgbnt100`` leave out those
            of its identity by its own camera, ``msvr310`` those of its identity in its own scene, all of them junk
            (identity -1); ``none`` leaves out nothing. Distractors need no rule: no query has their identity.
        max_rank: Length of the CMC curve, at most that of the gallery without junk.
        rerank: Order by k-reciprocal re-ranking (:class:`RerankOptions`) instead.

    Raises:
        ConfigError: No such protocol, or a number is out of range.
        InputError: Shapes or types do not fit, scenes are missing, or a feature is NaN or infinite.
    """
    rule = protocol_of(protocol)
    check_int("max_rank", max_rank, low=1)
    asked, among = sides_of(query, gallery, rule)
    kept, _ = without_junk(among, rule)
    if not len(kept):
        return summary([np.zeros(0, dtype=np.int64)] * len(asked), 1)
    ranks = match_ranks(asked, kept, distances(asked, kept, rerank), excluding=rule.same is not None)
    return summary(ranks, min(max_rank, len(kept)))


def sides_of(query: Sequence[Any], gallery: Sequence[Any], rule: Protocol) -> tuple[Side, Side]:
    """Both after the checks.

    Raises:
        InputError: As of :func:`side_of`, or they are not equally wide.
    """
    asked, among = side_of(query, "query", rule), side_of(gallery, "gallery", rule)
    widths = asked.features.shape[1], among.features.shape[1]
    if widths[0] != widths[1]:
        raise InputError(f"query and gallery features must be equally wide, got {widths[0]} and {widths[1]}")
    return dataclasses.replace(asked, features=asked.features.to(among.features.device)), among


def without_junk(gallery: Side, rule: Protocol) -> tuple[Side, np.ndarray]:
    """The gallery without what counts for no query, and where in the whole one the rest of it stands."""
    kept = np.flatnonzero(gallery.identities != JUNK) if rule.drops_junk else np.arange(len(gallery))
    if len(kept) == len(gallery):
        return gallery, kept
    return Side(gallery.features[kept], gallery.identities[kept], gallery.places[kept]), kept


def distances(query: Side, gallery: Side, rerank: bool | RerankOptions) -> Rows:
    """Of the features, or re-ranked.

    Raises:
        ConfigError: ``rerank`` is neither a bool nor :class:`RerankOptions`.
    """
    if rerank is False:
        return squared_distances(query.features, gallery.features)
    if rerank is not True and not isinstance(rerank, RerankOptions):
        raise ConfigError(f"rerank={rerank!r} is not allowed: it must be True, False or RerankOptions(…).")
    return reranked_distances(query.features, gallery.features, RerankOptions() if rerank is True else rerank)


def summary(ranks: Iterable[np.ndarray], max_rank: int) -> ReidMetrics:
    """The figures of all queries, from the ranks of their matches."""
    precision, inverse, queries = [], [], 0
    first = np.zeros(max_rank, dtype=np.int64)
    for own in ranks:
        queries += 1
        if not len(own):
            continue
        precision.append(float((np.arange(1, len(own) + 1) / own).mean()))
        inverse.append(len(own) / int(own[-1]))
        if own[0] <= max_rank:
            first[own[0] - 1] += 1
    valid = len(precision)
    share = first.cumsum() / valid if valid else np.full(max_rank, np.nan)
    return {
        "mAP": float(np.mean(precision)) if valid else float("nan"),
        "mINP": float(np.mean(inverse)) if valid else float("nan"),
        "cmc": share.tolist(),
        "num_queries": queries,
        "num_valid_queries": valid,
    }
