"""``fetch_file``, the real client on a loopback Hub: faults end in verified bytes or an error of ours."""

from __future__ import annotations

import hashlib
import json
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
import torch
from huggingface_hub import constants

import moezoo
from moezoo.errors import ConfigError, WeightsCorrupted, WeightsUnavailable
from moezoo.hub import fetch
from moezoo.hub.backbone import backbone_file
from moezoo.hub.fetch import commit_of, fetch_file
from moezoo.hub.stored import read_stored

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


def publish(hub, folder, **kwargs) -> str:
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return hub.put("user/digits", files, lfs=("model.safetensors",), **kwargs)


def test_a_saved_model_is_created_from_the_hub(hub, saved, cache):
    commit = publish(hub, saved)
    local = moezoo.create_model(f"local-dir:{saved}", pretrained=True)
    for name in ("hf-hub:user/digits", f"hf-hub:user/digits@{commit}", "hf-hub:user/digits@main"):
        model = moezoo.create_model(name, pretrained=True, cache_dir=cache)
        assert torch.equal(model.head.weight, local.head.weight)
    assert model.label_names == local.label_names


def test_the_weights_are_not_fetched_before_they_are_asked_for(hub, saved, cache):
    publish(hub, saved)
    stored = read_stored("hf-hub:user/digits", cache_dir=cache)
    assert not any("model.safetensors" in place for _, place, _ in hub.requests)
    assert hashlib.sha256(stored.weights_path().read_bytes()).hexdigest() == stored.weights_sha256


def test_weights_come_from_the_commit_of_the_configuration(hub, saved, cache):
    publish(hub, saved)
    stored = read_stored("hf-hub:user/digits", cache_dir=cache)
    hub.put("user/digits", {"config.json": b"{}", "model.safetensors": b"other"})
    assert hashlib.sha256(stored.weights_path().read_bytes()).hexdigest() == stored.weights_sha256


def test_a_pickle_beside_missing_safetensors_is_never_fetched(hub, saved, cache):
    hub.put("user/digits", {"config.json": (saved / "config.json").read_bytes(), "pytorch_model.bin": b"evil"})
    with pytest.raises(WeightsUnavailable, match=r"model\.safetensors"):
        moezoo.create_model("hf-hub:user/digits", pretrained=True, cache_dir=cache)
    assert not any(".bin" in place for _, place, _ in hub.requests)


def test_a_huge_config_json_is_not_downloaded(hub, saved, cache):
    hub.put("user/digits", {"config.json": b" " * 2_000_000})
    with pytest.raises(WeightsUnavailable, match="2,000,000 bytes"):
        read_stored("hf-hub:user/digits", cache_dir=cache)
    assert hub.count("GET") == 0


def test_a_hub_model_of_another_library_is_named(hub, cache):
    hub.put("user/digits", {"config.json": json.dumps({"architecture": "resnet18"}).encode()})
    with pytest.raises(ConfigError, match="looks like a timm model"):
        read_stored("hf-hub:user/digits", cache_dir=cache)


def test_a_backbone_comes_from_the_hub_at_its_revision(hub, cache):
    first = hub.put("timm/net", {"model.safetensors": b"one"})
    hub.put("timm/net", {"model.safetensors": b"two"})
    assert backbone_file({"hf_hub_id": "timm/net"}, cache_dir=cache).read_bytes() == b"two"
    assert backbone_file({"hf_hub_id": f"timm/net@{first}"}, cache_dir=cache).read_bytes() == b"one"
    hub.put("timm/other", {"w.safetensors": b"three"})
    cfg = {"hf_hub_id": "timm/other", "hf_hub_filename": "w.safetensors"}
    assert backbone_file(cfg, cache_dir=cache).read_bytes() == b"three"


def test_backbones_without_a_safetensors_file_are_left_to_timm_and_without_weights_are_an_error(hub):
    for cfg in (
        {"url": "https://example.com/w.npz"},
        {"file": "w.npz", "hf_hub_id": "timm/net"},
        {"hf_hub_id": "timm/net", "hf_hub_filename": "open_clip_pytorch_model.bin"},
    ):
        assert backbone_file(cfg) is None
    with pytest.raises(WeightsUnavailable, match=r"no pretrained weights for 'net\.tag'"):
        backbone_file({"architecture": "net", "tag": "tag"})
    assert hub.requests == []


def test_the_configurations_of_timm_itself_are_understood(hub, cache):
    import timm

    hub.put("timm/vit_small_patch16_224.augreg_in21k_ft_in1k", {"model.safetensors": b"vit"})
    cfg = timm.get_pretrained_cfg("vit_small_patch16_224")
    assert backbone_file(cfg, cache_dir=cache).read_bytes() == b"vit"
    assert backbone_file(cfg.to_dict(), cache_dir=cache).read_bytes() == b"vit"
