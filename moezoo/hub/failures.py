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
    LookupError,
    TypeError,
)
"""Everything the client is known to raise; the last two where an answer is not what it expects."""

# Clients before 1.0 have one class for files missing on the Hub and, derived from it, one for the cache.
_ABSENT: type[Exception] = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)


def status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, also where the client has wrapped it."""
    while error is not None:
        if (code := getattr(getattr(error, "response", None), "status_code", None)) is not None:
            return int(code)
        error = error.__cause__
    return None


def is_absent(error: Exception) -> bool:
    """Whether the Hub itself said that the repository has no such file."""
    return isinstance(error, _ABSENT) and not isinstance(error, errors.LocalEntryNotFoundError)


def is_passing(error: Exception) -> bool:
    """Whether the same request may well succeed a moment later."""
    code = status(error)
    if code is not None:
        return code in (408, 429) or code >= 500
    # Local failures (bad id, no permission, no space) are ValueErrors or carry an errno.
    local = (ValueError, LookupError, TypeError)
    return not isinstance(error, local) and not (isinstance(error, OSError) and error.errno is not None)


def reason(error: Exception) -> str:
    """The failure in our own words: no header, address or token of the request is ever quoted."""
    code = status(error)
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
        412: "the branch has moved",
        429: "too many requests, wait a while",
    }
    if code is not None:
        return known.get(code, f"the Hub answered with status {code}")
    if isinstance(error, errors.HFValidationError):
        return "this is not a valid repository id; it reads user/repo"
    if isinstance(error, OSError) and str(error).startswith("Consistency check failed"):
        return "what was sent is shorter or longer than promised"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
        return "the Hub refuses the metadata of README.md: " + str(error).partition("\n")[2].replace("\n", " ")[:300]
    if isinstance(error, (ValueError, LookupError, TypeError)):
        return f"an argument or the answer of {constants.ENDPOINT} is not understood ({type(error).__name__})"
    return f"the Hub at {constants.ENDPOINT} cannot be reached ({type(error).__name__})"


def remedy(error: Exception) -> str:
    """What a writer to the Hub can do about the failure."""
    code = status(error)
    if code == 401:
        return "log in by 'hf auth login', or pass token= with a token that may write"
    if code == 403:
        return "a token that may write, and a repository below your own name or your organisation's"
    if code == 404:
        return "a repository and a revision that exist, or a token that may create them"
    if code is not None and 400 <= code < 500 and code not in (408, 412, 429):
        return "what the repository allows"
    unreached = not isinstance(error, (ValueError, LookupError, TypeError)) and code is None
    xet = "; with HF_HUB_DISABLE_XET=1 large files go without xet" if unreached else ""
    return f"the same call a little later{xet}"
