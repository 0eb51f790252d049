"""A connection to a web server: asked safely, and its refusals told apart from passing trouble."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from moezoo.errors import ConfigError, DataError

TIMEOUT = 30.0
"""Seconds without an answer or a byte after which a connection counts as lost."""
PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers after which another try makes sense."""


class Cut(Exception):
    """The connection failed in a way that another try may mend; ``stale``: but not with what has come so far."""

    def __init__(self, reason: str, *, stale: bool = False):
        super().__init__(reason)
        self.stale = stale


def check_url(url: str) -> None:
    """Raises :class:`ConfigError`, without repeating what may be secret, unless ``url`` is of the web."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        (parts.hostname or "").encode("idna")
    except ValueError:
        sound = False
    if not sound:
        raise ConfigError("url is not allowed: it must begin with http:// or https:// and name a host")
    if not (url.isascii() and url.isprintable()) or " " in url:
        raise ConfigError("url is not allowed: spaces and letters beyond ASCII must be written as %20, %C3%A4 …")


def shown(url: str) -> str:
    """The address without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname}{port}{parts.path}"


def open_url(request: urllib.request.Request) -> Any:
    """The server's answer with a body to read; ``None`` if the range asked for begins where the file ends.

    Raises:
        DataError: The server refuses, or redirects to where it is not safe to go.
        Cut: It cannot be reached or is in trouble; ``stale`` if the range asked for lies outside the file.
    """
    where = shown(request.full_url)
    try:
        return urllib.request.build_opener(_SafeRedirects).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:
            start = (request.get_header("Range") or "").removeprefix("bytes=").removesuffix("-")
            if start and (error.headers.get("Content-Range") or "").endswith(f"/{start}"):
                return None
            raise Cut("the file has become shorter", stale=True) from None
        if error.code in PASSING:
            raise Cut(f"the server answers {error.code}") from None
        hint = {401: "a login is needed", 403: "access is refused", 404: "there is no such file", 410: "it is gone"}
        raise DataError(f"{where}: the server answers {error.code}, {hint.get(error.code, error.reason)}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise Cut(f"the server cannot be reached ({reason})") from error


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but not from an encrypted connection to a plain one."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        if urlsplit(newurl).scheme not in ("http", "https") or (
            req.full_url.startswith("https:") and not newurl.startswith("https:")
        ):
            raise DataError(f"{shown(req.full_url)} redirects to {shown(newurl)}, which is not encrypted; not followed")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
