"""What a training data set hands out in the place of an image it could not read. No torch here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Skipped:
    """An unreadable file of a training part. The loop leaves it out of the batch, counts it and lists it once.

    Validation and test parts never return one: there an unreadable file is an
    :class:`~moezoo.errors.UnreadableImage`, since a number over fewer images is another number.
    """

    path: str
    reason: str
    """Why, in words that follow the path: ``is empty (0 bytes)``."""
