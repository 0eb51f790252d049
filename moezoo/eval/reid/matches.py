"""Which gallery images stand first for a query, for pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moezoo.eval.reid.metrics import distances, sides_of, without_junk
from moezoo.eval.reid.protocols import protocol_of
from moezoo.eval.reid.ranks import Members
from moezoo.eval.reid.rerank import RerankOptions
from moezoo.eval.reid.scores import ordered_rows
from moezoo.moe.checks import check_int

NOTHING = -1
"""The index of a place that nobody stands at."""


@dataclass(frozen=True)
class TopMatches:
    """The first gallery images of Q queries, junk and what their protocol leaves out not among them."""

    indices: np.ndarray
    """(Q, count) int64 in the gallery as it was given, the nearest first; -1 where fewer are left."""
    right: np.ndarray
    """(Q, count) bool: of the query's identity."""
    matches: np.ndarray
    """(Q,) int64 how many right ones the whole gallery has; 0 for a query that no metric counts."""


def top_matches(
    query: Sequence[Any],
    gallery: Sequence[Any],
    count: int = 10,
    protocol: str = "market1501",
    *,
    rerank: bool | RerankOptions = False,
) -> TopMatches:
    """The rankings of :func:`reid_metrics`, as far as ``count``. Arguments and errors as there."""
    rule = protocol_of(protocol)
    check_int("count", count, low=1)
    asked, among = sides_of(query, gallery, rule)
    kept, stand_at = without_junk(among, rule)
    shape = (len(asked), min(count, len(among)))
    found = TopMatches(np.full(shape, NOTHING), np.zeros(shape, dtype=bool), np.zeros(len(asked), dtype=np.int64))
    if not len(kept):
        return found
    members, count = Members(kept), min(count, len(kept))
    for index, keys in ordered_rows(distances(asked, kept, rerank), len(asked), len(kept)):
        identity = int(asked.identities[index])
        place = int(asked.places[index]) if rule.same is not None else None
        matches, left_out = members.of(identity, place)
        keys[left_out] = np.inf
        first = np.argpartition(keys, count - 1)[:count]
        first = first[np.argsort(keys[first])]
        first = first[np.isfinite(keys[first])]
        found.indices[index, : len(first)] = stand_at[first]
        found.right[index, : len(first)] = kept.identities[first] == identity
        found.matches[index] = len(matches)
    return found
