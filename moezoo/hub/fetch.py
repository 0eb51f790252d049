"""One file from the Hub, through the huggingface_hub client, with what that client leaves out.

The client never compares a file with the hash the Hub promised, waits over twenty seconds when there is no
network, and lets raw transport errors through. Here the file that is handed back has the promised hash, an
unreachable Hub is told within five seconds, and every failure is a :class:`HubUnavailable` or a
:class:`HubCorrupted`. Messages are our own words: the client's may quote headers and signed addresses.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import constants

from moezoo.errors import HubCorrupted, HubError, HubUnavailable, NoSuchFile
from moezoo.hub.failures import FAILURES, is_absent, is_passing, reason
from moezoo.hub.files import file_digest

logger = logging.getLogger(__name__)

PROBE_SECONDS = 4.0
"""Longest wait for the Hub's first answer, all attempts together."""
ATTEMPTS = 3
PATIENCE_SECONDS = 60.0
"""A download that failed after this long is not begun again; the client has resumed it several times by then."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def fetch_file(
    repo_id: str,
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: bool | str | None = None,
    refresh: bool = False,
    max_bytes: int | None = None,
) -> Path:
    """The local path of a Hub repository's file, downloaded if it is not in the cache, its content verified.

    Args:
        revision: Branch, tag or commit; the default branch if ``None``.
        cache_dir: The Hub cache, if not the client's default.
        token: As in huggingface_hub: a token, ``True`` for the saved one, ``False`` for none.
        refresh: Ask the Hub whether the branch has moved, even when the file is cached. The cache serves if
            the Hub does not answer.
        max_bytes: Refuse a larger file before downloading it.

    Raises:
        HubUnavailable: It does not exist or cannot be reached; the text says why and what works now. The
            subclass ``NoSuchFile`` says that the repository has no such file.
        HubCorrupted: The Hub sent, twice, something else than it had promised.
    """
    what = f"{filename!r} of {repo_id!r}" + (f" at revision {revision!r}" if revision else "")
    cache = os.fspath(cache_dir) if cache_dir is not None else constants.HF_HUB_CACHE
    cached = _cached(repo_id, filename, revision, cache)
    damage = _damage(cached) if cached is not None else None
    if cached is not None and damage is None and (constants.HF_HUB_OFFLINE or not refresh or _is_commit(revision)):
        return cached
    if constants.HF_HUB_OFFLINE:
        if damage:
            raise _damaged(what, f"the cached file {damage}; it cannot be fetched again while HF_HUB_OFFLINE is set")
        raise _unavailable(what, "HF_HUB_OFFLINE is set and the file is not in the cache", cache)
    promised = _probe(repo_id, filename, revision, token)
    if isinstance(promised, Exception):
        if cached is not None and damage is None:
            logger.warning("%s: %s; using the copy in the cache", what, reason(promised))
            return cached
        if damage:
            raise _damaged(what, f"the cached file {damage}; fetching it again failed: {reason(promised)}")
        raise _unavailable(what, reason(promised), cache, NoSuchFile if is_absent(promised) else HubUnavailable)
    if max_bytes is not None and (promised.size or 0) > max_bytes:
        raise HubUnavailable(f"{what} has {promised.size:,} bytes; more than {max_bytes:,} is refused")
    if cached is not None and damage is None and promised.commit_hash == commit_of(cached):
        return cached
    return _download(what, repo_id, filename, revision, cache, token, promised.etag, force=damage is not None)


def commit_of(path: Path) -> str | None:
    """The commit that a path in the Hub cache belongs to."""
    parts = path.parts
    where = max((i for i, part in enumerate(parts) if part == "snapshots"), default=-1)
    return parts[where + 1] if 0 <= where < len(parts) - 2 and _COMMIT.fullmatch(parts[where + 1]) else None


def _is_commit(revision: str | None) -> bool:
    return revision is not None and _COMMIT.fullmatch(revision) is not None


def _cached(repo_id: str, filename: str, revision: str | None, cache: str) -> Path | None:
    try:
        found = huggingface_hub.try_to_load_from_cache(repo_id, filename, cache_dir=cache, revision=revision)
    except FAILURES:
        return None  # a malformed id is explained by the probe
    return Path(found) if isinstance(found, str) else None


def _probe(repo_id: str, filename: str, revision: str | None, token: bool | str | None) -> Any:
    """The Hub's metadata of the file, or the exception, within ``PROBE_SECONDS``."""
    answer: list[Any] = []
    deadline = time.monotonic() + PROBE_SECONDS

    def ask() -> None:
        for attempt in range(ATTEMPTS):
            try:
                url = huggingface_hub.hf_hub_url(repo_id, filename, revision=revision)
                answer[:] = [huggingface_hub.get_hf_file_metadata(url, token=token, timeout=3)]
                return
            except Exception as error:
                answer[:] = [error]
                pause = 0.2 * 2**attempt
                if not is_passing(error) or time.monotonic() + pause + 1 > deadline:
                    return
                time.sleep(pause)

    # A thread, because no client timeout covers getaddrinfo.
    thread = threading.Thread(target=ask, name="moezoo-hub-probe", daemon=True)
    thread.start()
    thread.join(PROBE_SECONDS)
    result = answer[0] if answer else TimeoutError(f"no answer within {PROBE_SECONDS} s")
    if isinstance(result, Exception) and not isinstance(result, FAILURES):
        raise result
    return result


def _download(
    what: str,
    repo_id: str,
    filename: str,
    revision: str | None,
    cache: str,
    token: Any,
    etag: str | None,
    *,
    force: bool,
) -> Path:
    damages, start = 0, time.monotonic()
    why = "the download kept failing"
    for attempt in range(ATTEMPTS):
        path, failure = _get(repo_id, filename, revision, cache, token, force=force)
        if failure is not None:
            why = reason(failure)
            if not is_passing(failure) or time.monotonic() - start > PATIENCE_SECONDS:
                break
            logger.info("%s: %s; trying again", what, why)
            time.sleep(0.2 * 2**attempt)
            continue
        damage = _damage(path, etag)
        if damage is None:
            return path
        _forget(path)
        damages += 1
        if damages == 2:
            raise _damaged(what, f"the file as downloaded {damage}, twice; it has been removed from the cache")
        logger.warning("%s: the file as downloaded %s; downloading it once more", what, damage)
        force = True
    raise _unavailable(what, why, cache)


def _get(
    repo_id: str, filename: str, revision: str | None, cache: str, token: Any, *, force: bool
) -> tuple[Path, Exception | None]:
    """The client's own download; its error is returned, lest ours would carry it, headers and all, as context."""
    try:
        found = huggingface_hub.hf_hub_download(
            repo_id, filename, revision=revision, cache_dir=cache, token=token, force_download=force
        )
    except FAILURES as error:
        return Path(), error
    return Path(found), None


def _damage(path: Path, etag: str | None = None) -> str | None:
    """How the content differs from what the Hub promised, or ``None``.

    The promise is the name of the blob the snapshot links to; where the cache has no links it is ``etag``,
    known only at download.
    """
    promise = Path(os.readlink(path)).name if path.is_symlink() else etag
    if promise is None or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", promise):
        return None
    try:
        # Large files are promised by their sha256, the others by git's sha1 of a blob.
        got = file_digest(path) if len(promise) == 64 else file_digest(path, "sha1", b"blob %d\0" % path.stat().st_size)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if got == promise else f"is damaged: expected hash {promise}, got {got}"


def _forget(path: Path) -> None:
    """Take a damaged file out of the cache, so that no other program reads it either."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            (path.parent / os.readlink(path)).unlink()
        path.unlink()


def _unavailable(what: str, why: str, cache: str, kind: type[HubUnavailable] = HubUnavailable) -> HubError:
    return kind.of(
        f"{what} is not available",
        cause=why,
        tried=f"Looked in the cache {cache!r}, then asked {constants.ENDPOINT}",
        advice="pretrained=False (fresh weights), cache_dir= of a cache that holds the file, or a local .safetensors "
        "as checkpoint_path=",
    )


def _damaged(what: str, how: str) -> HubError:
    return HubCorrupted.of(
        what,
        cause=how,
        tried=f"Compared it with the hash that {constants.ENDPOINT} promised",
        advice="another revision= of the repository, or the file from somewhere else as checkpoint_path=",
    )
