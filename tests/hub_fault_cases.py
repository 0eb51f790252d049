"""What can go wrong with a Hub, and what a user of moezoo is to see: one case per line, run by the real client.

``tests/hub/test_hub_faults.py`` asserts every case, ``benchmarks/hub_faults.py`` prints them with what they cost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

TOKEN = "hf_writerWRITERwriter"
REPO = "user/digits"
WEIGHTS = "model.safetensors"
BODY = bytes(range(256)) * 400
EVER = 9999


@dataclass(frozen=True)
class Case:
    what: str
    """The fault, in words."""
    pattern: str = ""
    """Of the requests that it befalls."""
    kind: str = "status"
    times: int = EVER
    code: int = 503
    seconds: float = 30.0
    cache: str = "cold"
    """``cold``; ``warm`` (holds the file); ``damaged`` (holds half of it)."""
    file: str = WEIGHTS
    error: str = ""
    """Class of the error; empty: the file arrives, or the push is seen."""
    says: str = ""
    """A regular expression that the error's text matches."""
    slow: bool = False
    """Waits for real timeouts."""
    repo: dict = field(default_factory=dict)
    """How the repository is closed."""
    offline: bool = False


PULLS = (
    Case("HEAD 503, twice", "HEAD hub", times=2),
    Case("HEAD 429, once", "HEAD hub", times=1, code=429),
    Case("HEAD 408, once", "HEAD hub", times=1, code=408),
    Case("HEAD 503 for ever", "HEAD hub", error="HubUnavailable", says="status 503"),
    Case("HEAD 503 for ever, warm cache", "HEAD hub", cache="warm"),
    Case(
        "HEAD 500 for ever, damaged cache", "HEAD hub", code=500, cache="damaged", error="HubCorrupted", says="damaged"
    ),
    Case("HEAD 401", "HEAD hub", code=401, error="HubUnavailable", says="token is not accepted"),
    Case("HEAD 403", "HEAD hub", code=403, error="HubUnavailable", says="forbidden"),
    Case("HEAD hangs", "HEAD hub", "hang", error="HubUnavailable", says="cannot be reached", slow=True),
    Case("HEAD hangs, warm cache", "HEAD hub", "hang", cache="warm", slow=True),
    Case("HEAD connection reset, twice", "HEAD hub", "reset", times=2),
    Case("HEAD connection reset for ever", "HEAD hub", "reset", error="HubUnavailable", says="cannot be reached"),
    Case("HEAD connection reset for ever, warm cache", "HEAD hub", "reset", cache="warm"),
    Case("GET 429, once", "GET cdn", times=1, code=429),
    Case("GET 500, once", "GET cdn", times=1, code=500),
    Case("GET 503 for ever", "GET cdn", error="HubUnavailable", says="status 503"),
    Case("GET 403 for ever", "GET cdn", code=403, error="HubUnavailable", says="forbidden"),
    Case("GET connection reset, once", "GET cdn", "reset", times=1),
    Case("GET connection reset for ever", "GET cdn", "reset", error="HubUnavailable", says="cannot be reached"),
    Case("GET closed in the middle, once", "GET cdn", "cut", times=1),
    Case("GET stalls, once", "GET cdn", "hang", times=1, seconds=12.0, slow=True),
    Case("GET slow", "GET cdn", "slow", seconds=1.0),
    Case("GET a shorter file, once", "GET cdn", "shorten", times=1),
    Case("GET a shorter file for ever", "GET cdn", "shorten", error="HubUnavailable", says="shorter or longer"),
    Case("GET an HTML page instead, once", "GET cdn", "page", times=1),
    Case("GET one byte wrong, once", "GET cdn", "flip", times=1),
    Case("GET one byte wrong for ever", "GET cdn", "flip", error="HubCorrupted", says="expected hash .*, twice"),
    Case("GET config.json one byte wrong, once", "GET hub.*config", "flip", times=1, file="config.json"),
    Case("cached file cut on disk", cache="damaged"),
    Case("file missing", file="absent.safetensors", error="NoSuchFile", says="no such file"),
    Case("private repository, no token", repo={"token": "x"}, error="HubUnavailable", says="or it is private"),
    Case("gated repository", repo={"token": "x", "gated": True}, error="HubUnavailable", says="accept its conditions"),
    Case("offline mode", offline=True, error="HubUnavailable", says="HF_HUB_OFFLINE"),
    Case("offline mode, warm cache", offline=True, cache="warm"),
    Case("offline mode, damaged cache", offline=True, cache="damaged", error="HubCorrupted", says="HF_HUB_OFFLINE"),
)
PUSHES = (
    Case("create_repo 503, once", "POST hub/api/repos/create", times=1),
    Case("create_repo 503 for ever", "POST hub/api/repos/create", error="PushError", says="status 503.*a little later"),
    Case("card check reset, once", "POST hub/api/validate-yaml", "reset", times=1),
    Case(
        "card check answers nonsense", "POST hub/api/validate-yaml", code=400, error="PushError", says="not understood"
    ),
    Case("branch's head 503, once", "GET hub/api/models", times=1),
    Case("preupload 503, once", "POST hub/.*preupload", times=1),
    Case("preupload 403", "POST hub/.*preupload", code=403, error="PushError", says="forbidden.*token that may write"),
    Case("batch closed without an answer, once", "POST hub/.*batch", "drop", times=1),
    Case("PUT 500, once", "PUT cdn/upload", times=1, code=500),
    Case("PUT 500 for ever", "PUT cdn/upload", code=500, error="PushError", says="status 500"),
    Case("PUT 403", "PUT cdn/upload", code=403, error="PushError", says="forbidden"),
    Case("verify 503, once", "POST hub/.*verify", times=1),
    Case("verify 422", "POST hub/.*verify", code=422, error="PushError", says="status 422"),
    Case("commit 503, once", "POST hub/.*commit", times=1),
    Case("commit 503 for ever", "POST hub/.*commit", error="PushError", says="status 503"),
    Case("commit 429 for ever", "POST hub/.*commit", code=429, error="PushError", says="too many requests"),
    Case("commit 400", "POST hub/.*commit", code=400, error="PushError", says="status 400"),
    Case("commit connection reset, once", "POST hub/.*commit", "reset", times=1),
    Case("somebody else commits first", "POST hub/.*commit", "moved", times=1, error="PushConflict", says="meanwhile"),
    Case("commit done, its answer lost", "POST hub/.*commit", "lost", times=1),
    Case("commit done, answered by a page", "POST hub/.*commit", "page", times=1),
)


@dataclass(frozen=True)
class Seen:
    error: Exception | None
    seconds: float
    requests: int


def run_pull(case: Case, hub, folder: Path) -> Seen:
    """Fetch one file under the fault; what came of it, its content checked."""
    from huggingface_hub import constants

    from moezoo.errors import MoeZooError
    from moezoo.hub.fetch import fetch_file

    hub.reset()
    files = {WEIGHTS: BODY, "config.json": b'{"a": 1}'}
    hub.put(REPO, files, lfs=(WEIGHTS,), **case.repo)
    if case.cache != "cold":
        path = fetch_file(REPO, case.file, cache_dir=folder)
        if case.cache == "damaged":
            path.resolve().write_bytes(BODY[: len(BODY) // 2])
    hub.requests.clear()
    if case.pattern:
        hub.fault(case.pattern, case.kind, case.times, case.code, case.seconds)
    error, start = None, time.monotonic()
    constants.HF_HUB_OFFLINE = case.offline
    try:
        path = fetch_file(REPO, case.file, cache_dir=folder, refresh=True)
        assert path.read_bytes() == files[case.file]
    except MoeZooError as caught:
        error = caught
    finally:
        constants.HF_HUB_OFFLINE = False
    return Seen(error, time.monotonic() - start, len(hub.requests))


def run_push(case: Case, hub, folder: Path) -> Seen:
    """Push a saved model over an older one under the fault; the branch shows all of it, or what it showed."""
    from moezoo.errors import MoeZooError
    from moezoo.hub import push_folder

    hub.reset()
    hub.users[TOKEN] = "user"
    hub.put(REPO, {"README.md": b"old", WEIGHTS: b"old"}, lfs=(WEIGHTS,))
    before = hub.files(REPO)
    hub.fault(case.pattern, case.kind, case.times, case.code, case.seconds)
    error, start = None, time.monotonic()
    try:
        push_folder(folder, REPO, token=TOKEN)
    except MoeZooError as caught:
        error = caught
    seconds = time.monotonic() - start
    if error is not None:
        assert {**hub.files(REPO), **before} == {**hub.files(REPO)}  # as it was, or as somebody else left it
        assert hub.files(REPO)[WEIGHTS] == b"old"
    else:
        assert hub.files(REPO)[WEIGHTS] == (folder / WEIGHTS).read_bytes()
        assert len(hub.repos[REPO].revisions) == 2  # the older model, and one commit
    return Seen(error, seconds, len(hub.requests))
