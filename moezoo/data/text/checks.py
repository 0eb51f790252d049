"""What no vocabulary can write."""

from __future__ import annotations

from moezoo.errors import InputError


def check_text(text: str, name: str) -> None:
    """Raise :class:`InputError` for half of a surrogate pair, which JSON can hold and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has half of a surrogate pair at place {error.start}, which is no character, got {text!r:.80}"
        ) from None
