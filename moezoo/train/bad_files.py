"""Training files that could not be read: left out, counted, listed once each, and not without end."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable

from moezoo.data.skipped import Skipped
from moezoo.errors import DataError

logger = logging.getLogger(__name__)


class BadFiles:
    """The unreadable files met so far.

    Args:
        limit: How many different ones a run may meet.
        known: Those of the run that is resumed, by path, with the reason.
    """

    def __init__(self, limit: int, known: dict[str, str] | None = None):
        self.limit = limit
        self.reasons = dict(known or {})

    def see(self, skipped: Iterable[Skipped]) -> None:
        """Note what a batch left out.

        Raises:
            DataError: There are more than the limit.
        """
        for each in skipped:
            if each.path not in self.reasons:
                self.reasons[each.path] = each.reason
                logger.warning("left out, training goes on without it: %s %s", each.path, each.reason)
        if len(self.reasons) > self.limit:
            shown = "; ".join(f"{path} {reason}" for path, reason in list(self.reasons.items())[:5])
            raise DataError(
                f"{len(self.reasons)} training files cannot be read, more than max_bad_files={self.limit}: {shown}; …"
            )

    def merge(self, everyone: Iterable[dict[str, str]]) -> None:
        """Take in what the other processes met."""
        self.see(Skipped(path, reason) for reasons in everyone for path, reason in reasons.items())

    def to_list(self) -> list[dict[str, str]]:
        """The content of ``bad_files.json``."""
        return [dataclasses.asdict(Skipped(path, reason)) for path, reason in sorted(self.reasons.items())]
