"""``fetch_file``, the real client on a loopback Hub: faults end in verified bytes or an error of ours."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import pytest
from huggingface_hub import constants

from moezoo.errors import WeightsCorrupted, WeightsUnavailable
from moezoo.hub import fetch
from moezoo.hub.fetch import commit_of, fetch_file

BODY = bytes(range(256)) * 64
TOKEN = "hf_secretSECRETsecret"


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def repo(hub):
    hub.put("user/repo", {"model.safetensors": BODY, "config.json": b"{}"}, lfs=("model.safetensors",))
    return hub


@pytest.fixture
def down(monkeypatch):
    """The Hub's address becomes a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]

    def switch_off():
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            f"http://127.0.0.1:{port}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
        )

    return switch_off


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_file_arrives_once_and_then_comes_from_the_cache_unasked(repo, cache, name):
    path = fetch_file("user/repo", name, cache_dir=cache)
    assert path.read_bytes() == repo.repos["user/repo"].revisions[commit_of(path)][name]
    repo.requests.clear()
    assert fetch_file("user/repo", name, cache_dir=cache) == path
    assert repo.requests == []


def test_revisions_are_kept_apart_and_commits_are_not_asked_for_twice(hub, cache):
    first = hub.put("user/repo", {"f": b"one"})
    hub.put("user/repo", {"f": b"two"})
    hub.put("user/repo", {"f": b"three"}, branch="dev")
    assert fetch_file("user/repo", "f", cache_dir=cache).read_bytes() == b"two"
    assert fetch_file("user/repo", "f", revision="dev", cache_dir=cache).read_bytes() == b"three"
    assert fetch_file("user/repo", "f", revision=first, cache_dir=cache).read_bytes() == b"one"
    hub.requests.clear()
    fetch_file("user/repo", "f", revision=first, cache_dir=cache, refresh=True)
    assert hub.requests == []


def test_refresh_notices_that_the_branch_has_moved(hub, cache):
    hub.put("user/repo", {"f": b"old"})
    fetch_file("user/repo", "f", cache_dir=cache)
    hub.put("user/repo", {"f": b"new"})
    assert fetch_file("user/repo", "f", cache_dir=cache).read_bytes() == b"old"
    assert fetch_file("user/repo", "f", cache_dir=cache, refresh=True).read_bytes() == b"new"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_wrong_bytes_are_fetched_once_more_and_then_refused(repo, cache, name):
    repo.fault("GET", "flip", 99)
    with pytest.raises(WeightsCorrupted, match=r"expected hash [0-9a-f]+, got [0-9a-f]+, twice"):
        fetch_file("user/repo", name, cache_dir=cache)
    assert repo.count("GET") == 2
    assert not [p for p in cache.rglob("*") if p.is_file() and p.parent.name == "blobs"]
    repo.faults.clear()
    path = fetch_file("user/repo", name, cache_dir=cache)
    assert path.read_bytes() == repo.repos["user/repo"].revisions[commit_of(path)][name]


def test_a_cached_file_damaged_on_disk_is_fetched_again(repo, cache):
    path = fetch_file("user/repo", "model.safetensors", cache_dir=cache)
    path.resolve().write_bytes(BODY[:-1])
    assert fetch_file("user/repo", "model.safetensors", cache_dir=cache).read_bytes() == BODY


def test_a_damaged_cached_file_is_never_handed_out_without_the_hub(repo, cache, down, monkeypatch):
    path = fetch_file("user/repo", "model.safetensors", cache_dir=cache)
    path.resolve().write_bytes(b"\0" * len(BODY))
    down()
    with pytest.raises(WeightsCorrupted, match="fetching it again failed"):
        fetch_file("user/repo", "model.safetensors", cache_dir=cache)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsCorrupted, match="HF_HUB_OFFLINE"):
        fetch_file("user/repo", "model.safetensors", cache_dir=cache)


def test_a_download_into_a_cache_without_links_is_verified_too(repo, cache, monkeypatch):
    import huggingface_hub

    real = huggingface_hub.hf_hub_download

    def unlinked(*args, **kwargs):
        path = Path(real(*args, **kwargs))
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unlinked)
    repo.fault("GET cdn", "flip", 1)
    assert fetch_file("user/repo", "model.safetensors", cache_dir=cache).read_bytes() == BODY
    assert sum("cdn" in place for _, place, _ in repo.requests) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nobody/nothing", "f"), "no such repository, or it is private"),
        (("user/private", "f"), "no such repository, or it is private"),
        (("user/gated", "f"), "gated: accept its conditions"),
        (
            ("user/repo", "absent.safetensors"),
            r"no such file, and moezoo reads no other kind \(never .bin or .pth\)",
        ),
        (("user/repo", "config.json", "no-such-branch"), "no such revision"),
        (("user//repo", "f"), "not a valid repository id"),
    ],
)
def test_what_is_not_there_is_told_with_what_works_now(repo, cache, arguments, words):
    repo.put("user/private", {"f": b"x"}, token=TOKEN)
    repo.put("user/gated", {"f": b"x"}, token=TOKEN, gated=True)
    repo_id, name, *revision = arguments
    with pytest.raises(WeightsUnavailable, match=words) as caught:
        fetch_file(repo_id, name, revision=revision[0] if revision else None, cache_dir=cache)
    for said in (repr(name), repr(repo_id), str(cache), repo.endpoint, "pretrained=False"):
        assert said in str(caught.value)
    assert repo.count("HEAD") <= 1


@pytest.mark.parametrize("kind", ["status", "reset", "hang", "down"])
def test_a_warm_cache_serves_whatever_the_hub_does(repo, cache, kind, down, monkeypatch, caplog):
    path = fetch_file("user/repo", "config.json", cache_dir=cache)
    repo.fault("HEAD", kind, 99)
    if kind == "down":
        down()
    monkeypatch.setattr(fetch, "PROBE_SECONDS", 1.0)
    with caplog.at_level(logging.WARNING, "moezoo"):
        assert fetch_file("user/repo", "config.json", cache_dir=cache, refresh=True) == path
    assert "using the copy in the cache" in caplog.text


def test_a_private_repository_opens_to_its_token_which_the_content_network_never_sees(hub, cache):
    hub.put("user/private", {"model.safetensors": BODY}, lfs=("model.safetensors",), token=TOKEN)
    assert fetch_file("user/private", "model.safetensors", cache_dir=cache, token=TOKEN).read_bytes() == BODY
    sent = {place.partition("/")[0]: headers.get("authorization") for _, place, headers in hub.requests}
    assert sent == {"hub": f"Bearer {TOKEN}", "cdn": None}


@pytest.mark.parametrize("token", [TOKEN, TOKEN + "\nX", TOKEN + "é"])
def test_no_message_quotes_a_token_or_a_signed_address(hub, cache, token, caplog):
    hub.put("user/private", {"model.safetensors": BODY}, lfs=("model.safetensors",), token=TOKEN)
    hub.fault("GET cdn", "status", 99, 403)
    with caplog.at_level(logging.DEBUG), pytest.raises(WeightsUnavailable) as caught:
        fetch_file("user/private", "model.safetensors", cache_dir=cache, token=token)
    told = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    ours = "".join(record.getMessage() for record in caplog.records if record.name.startswith("moezoo"))
    for text in (told, ours):
        assert "secretSECRET" not in text
        assert "SECRET-SIGNATURE" not in text


OUTSIDE = """
import sys, time
from huggingface_hub import constants
from moezoo.hub.fetch import fetch_file
from moezoo.errors import WeightsUnavailable
start = time.monotonic()
try:
    fetch_file("user/repo", "model.safetensors", cache_dir=sys.argv[1])
except WeightsUnavailable as error:
    print(time.monotonic() - start, error)
"""


def outside(cache, **env):
    """Seconds and message of a fetch in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDE, str(cache)], capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    seconds, _, text = done.stdout.partition(" ")
    return float(seconds), text


@pytest.mark.parametrize("address", ["closed port", "silent port", "unknown host"])
def test_without_a_network_the_error_comes_within_five_seconds(cache, address):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if address == "silent port":
            listener.listen()
        port = listener.getsockname()[1]
        host = "no-such-host.invalid" if address == "unknown host" else "127.0.0.1"
        seconds, text = outside(cache, HF_ENDPOINT=f"http://{host}:{port}")
    # A promise to the user; the plain client takes 23 s.
    assert seconds < 5
    assert "is not available" in text
    assert "pretrained=False" in text


def test_a_name_lookup_that_hangs_is_given_up(repo, cache, monkeypatch):
    monkeypatch.setattr(fetch, "PROBE_SECONDS", 0.2)

    def slow(*args, **kwargs):
        time.sleep(2)
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(WeightsUnavailable, match="TimeoutError"):
        fetch_file("user/repo", "config.json", cache_dir=cache)


def test_offline_mode_answers_without_a_request(repo, cache, monkeypatch):
    path = fetch_file("user/repo", "config.json", cache_dir=cache)
    repo.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert fetch_file("user/repo", "config.json", cache_dir=cache, refresh=True) == path
    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE is set and the file is not in the cache"):
        fetch_file("user/repo", "model.safetensors", cache_dir=cache)
    assert repo.requests == []


def test_a_cache_that_cannot_be_written_is_named(repo, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsUnavailable, match=str(tmp_path / "file")):
        fetch_file("user/repo", "config.json", cache_dir=tmp_path / "file" / "cache")


def test_a_process_killed_in_mid_download_leaves_nothing_that_is_taken_for_the_file(repo, cache):
    repo.fault("GET cdn", "hang", 1, seconds=60.0)
    pid = os.fork()
    if pid == 0:
        fetch_file("user/repo", "model.safetensors", cache_dir=cache)
        os._exit(0)
    while not repo.count("GET"):
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert fetch_file("user/repo", "model.safetensors", cache_dir=cache).read_bytes() == BODY


def test_a_file_over_the_limit_is_not_downloaded(repo, cache):
    with pytest.raises(WeightsUnavailable, match="16,384 bytes; more than 1,000"):
        fetch_file("user/repo", "model.safetensors", cache_dir=cache, max_bytes=1000)
    assert repo.count("GET") == 0
