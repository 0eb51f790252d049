"""At which ranks a query's matches stand."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from moezoo.eval.reid.scores import Rows, ordered_rows
from moezoo.eval.reid.side import Side


class Members:
    """Where in the gallery each identity is."""

    def __init__(self, gallery: Side):
        self.order = np.argsort(gallery.identities, kind="stable")
        self.sorted = gallery.identities[self.order]
        self.places = gallery.places

    def of(self, identity: int, place: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Gallery indices of an identity: its matches, and what is left out for having the query's own place."""
        begin, end = np.searchsorted(self.sorted, (identity, identity + 1))
        same = self.order[begin:end]
        if place is None:
            return same, same[:0]
        left_out = self.places[same] == place
        return same[~left_out], same[left_out]


def match_ranks(query: Side, gallery: Side, rows: Rows, *, excluding: bool) -> Iterator[np.ndarray]:
    """For every query the ascending ranks of its matches, from 1; an empty array where it has none.

    Whole rows are never sorted: only what stands before the last match is.

    Args:
        query: The queries.
        gallery: Junk already left out.
        rows: Their distances.
        excluding: Leave out matches of the query's own place.
    """
    members = Members(gallery)
    for index, keys in ordered_rows(rows, len(query), len(gallery)):
        place = int(query.places[index]) if excluding else None
        matches, left_out = members.of(int(query.identities[index]), place)
        if not len(matches):
            yield matches
            continue
        hits = np.sort(keys[matches])
        before = keys[keys <= hits[-1]]
        before.sort()
        yield before.searchsorted(hits) - np.sort(keys[left_out]).searchsorted(hits) + 1
