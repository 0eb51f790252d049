"""What a failed request to the Hub means, in our own words, and whether trying again can help."""

from __future__ import annotations

from typing import cast

from huggingface_hub import constants, errors

# HfHubHTTPError derives from the HTTP library's base error, whichever library this client uses.
FAILURES: tuple[type[Exception], ...] = (
    *cast("tuple[type[Exception], ...]", errors.HfHubHTTPError.__bases__),
    errors.EntryNotFoundError,
    OSError,
    ValueError,
    RuntimeError,
)
"""Everything the client is known to raise."""

# Clients before 1.0 have one class for files missing on the Hub and, derived from it, one for the cache.
_ABSENT: type[Exception] = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)


def _status(error: Exception) -> int | None:
    return getattr(getattr(error, "response", None), "status_code", None)


def is_absent(error: Exception) -> bool:
    """Whether the Hub itself said that the repository has no such file."""
    return isinstance(error, _ABSENT) and not isinstance(error, errors.LocalEntryNotFoundError)


def is_passing(error: Exception) -> bool:
    """Whether the same request may well succeed a moment later."""
    status = _status(error)
    if status is not None:
        return status in (408, 429) or status >= 500
    # Local failures (bad id, no permission, no space) are ValueErrors or carry an errno.
    return not isinstance(error, ValueError) and not (isinstance(error, OSError) and error.errno is not None)


def reason(error: Exception) -> str:
    """The failure in our own words: no header, address or token of the request is ever quoted."""
    status = _status(error)
    if isinstance(error, errors.GatedRepoError):
        return "the repository is gated: accept its conditions on its page, then pass token="
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository, or it is private and the token does not open it"
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision"
    if is_absent(error):
        return "the repository has no such file, and moezoo reads no other kind (never .bin or .pth)"
    known = {
        401: "the token is not accepted",
        403: "access is forbidden with this token",
        429: "too many requests, wait a while",
    }
    if status is not None:
        return known.get(status, f"the Hub answered with status {status}")
    if isinstance(error, errors.HFValidationError):
        return "this is not a valid repository id; it reads user/repo"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return f"the Hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__})"
