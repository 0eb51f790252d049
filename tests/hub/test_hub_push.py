"""``push_to_hub`` by the real client into a loopback Hub: one whole commit, or nothing that anybody sees."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time

import pytest
import torch
from huggingface_hub import ModelCard, constants

import moezoo
from moezoo.errors import ConfigError, HubError, PushConflict, PushError, WeightsCorrupted, WeightsError
from moezoo.hub import push_folder

TOKEN = "hf_writerWRITERwriter"
REPO = "user/digits"
FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.fixture
def writer(hub):
    """The Hub, where ``TOKEN`` may write below ``user/``."""
    hub.users[TOKEN] = "user"
    return hub


def test_a_pushed_model_comes_back_with_the_same_logits_card_and_labels(writer, model, tmp_path, caplog):
    labels, metrics = [f"digit {i}" for i in range(10)], {"dataset": "digits", "test_top1": 0.5}
    with caplog.at_level(logging.DEBUG):
        name = moezoo.push_to_hub(model, REPO, token=TOKEN, private=True, label_names=labels, metrics=metrics)
    assert sorted(writer.files(REPO)) == sorted([".gitattributes", *FILES])
    assert writer.repos[REPO].private
    assert len(writer.repos[REPO].revisions) == 2  # the empty repository, and one commit
    assert name == f"hf-hub:{REPO}@{writer.repos[REPO].branches['main']}"
    back = moezoo.create_model(name, pretrained=True, token=TOKEN, cache_dir=tmp_path / "cache").eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    assert torch.equal(back(images), model.eval()(images))
    assert back.label_names == tuple(labels)
    card = ModelCard(writer.files(REPO)["README.md"].decode())
    assert f'create_model("hf-hub:{REPO}"' in card.text
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.eval_results[0].metric_value == 0.5
    assert writer.count("POST", "/api/validate-yaml") >= 1
    # A token goes to the Hub alone: not to the content network, and into no message.
    assert {h.get("authorization") for _, place, h in writer.requests if place.startswith("cdn")} == {None}
    assert not any(TOKEN in record.getMessage() for record in caplog.records)
    assert not any(TOKEN.encode() in body for body in writer.files(REPO).values())


def test_pushing_again_replaces_what_changed_in_one_commit_and_nothing_makes_none(writer, model):
    moezoo.push_to_hub(model, REPO, token=TOKEN, max_shard_size="200KB")
    shards = {name for name in writer.files(REPO) if name.startswith("model-")}
    assert len(shards) > 1
    first = moezoo.push_to_hub(model, REPO, token=TOKEN, max_shard_size="200KB")
    assert len(writer.repos[REPO].revisions) == 2
    second = moezoo.push_to_hub(model, REPO, token=TOKEN)
    assert second != first
    assert sorted(writer.files(REPO)) == sorted([".gitattributes", *FILES])


def test_branches_pull_requests_and_messages(writer, model, tmp_path):
    moezoo.push_to_hub(model, REPO, token=TOKEN)
    before = writer.files(REPO)
    with torch.no_grad():
        model.head.bias.add_(1)
    moezoo.push_to_hub(model, REPO, token=TOKEN, revision="dev")
    assert writer.files(REPO) == before
    assert writer.files(REPO, "dev")["model.safetensors"] != before["model.safetensors"]
    name = moezoo.push_to_hub(model, REPO, token=TOKEN, create_pr=True, commit_message="Better")
    assert writer.files(REPO) == before
    assert writer.repos[REPO].pull_requests == ["Better"]
    back = moezoo.create_model(name, pretrained=True, cache_dir=tmp_path)
    assert torch.equal(back.head.bias, model.head.bias)


def test_a_push_that_is_killed_before_its_commit_is_not_seen(writer, saved):
    push_folder(saved, REPO, token=TOKEN)
    before = writer.files(REPO)
    text = (saved / "README.md").read_text()
    (saved / "README.md").write_text(text + "\nmore\n")
    writer.fault("POST hub/.*preupload", "hang", 1, seconds=60.0)
    pid = os.fork()
    if pid == 0:
        push_folder(saved, REPO, token=TOKEN)
        os._exit(0)
    while writer.count("POST", "preupload") < 2:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert writer.files(REPO) == before


def test_of_two_pushes_at_once_the_second_is_told_or_goes_on_top(writer, saved, model, tmp_path):
    push_folder(saved, REPO, token=TOKEN)
    writer.fault("POST hub/.*preupload", "slow", 1, seconds=1.0)
    failures = []

    def slower():
        try:
            moezoo.push_to_hub(model, REPO, token=TOKEN)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=slower)
    thread.start()
    while writer.faults[0].times:
        time.sleep(0.01)
    (saved / "README.md").write_text("---\nlicense: mit\n---\nthe faster one")
    push_folder(saved, REPO, token=TOKEN)
    faster = writer.files(REPO)
    thread.join()
    assert [type(error) for error in failures] == [PushConflict]
    assert "somebody else pushed meanwhile" in str(failures[0])
    assert "on_conflict='retry'" in str(failures[0])
    assert writer.files(REPO) == faster
    writer.fault("POST hub/.*commit", "moved", 2)
    moezoo.push_to_hub(model, REPO, token=TOKEN, on_conflict="retry")
    assert writer.files(REPO)["notes.txt"] == b"theirs"
    back = moezoo.create_model(f"hf-hub:{REPO}", pretrained=True, cache_dir=tmp_path)
    assert torch.equal(back.head.weight, model.head.weight)


def test_what_must_not_be_sent_is_refused_before_anything_is(writer, saved, model, monkeypatch):
    for repo_id in ("digits", "a/b/c", "user/di gits"):
        with pytest.raises(ConfigError, match="user/repo"):
            push_folder(saved, repo_id, token=TOKEN)
    with pytest.raises(ConfigError, match="on_conflict='retri'"):
        moezoo.push_to_hub(model, REPO, token=TOKEN, on_conflict="retri")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="HF_HUB_OFFLINE"):
        push_folder(saved, REPO, token=TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    content = bytearray((saved / "model.safetensors").read_bytes())
    content[-5] ^= 1
    (saved / "model.safetensors").write_bytes(bytes(content))
    with pytest.raises(WeightsCorrupted, match="expected sha256"):
        push_folder(saved, REPO, token=TOKEN)
    assert writer.requests == []


def test_private_weights_never_land_in_a_public_repository(writer, saved):
    push_folder(saved, REPO, token=TOKEN)
    commits = len(writer.repos[REPO].revisions)
    with pytest.raises(PushError, match="exists and is public"):
        push_folder(saved, REPO, token=TOKEN, private=True)
    assert len(writer.repos[REPO].revisions) == commits
    assert not any("upload" in place for _, place, _ in writer.requests[-2:])


@pytest.mark.parametrize("token", ["hf_nobodyNOBODY", False])
def test_without_a_token_that_may_write_the_error_says_what_to_do(writer, saved, token):
    with pytest.raises(PushError, match=r"token is not accepted.*hf auth login") as caught:
        push_folder(saved, REPO, token=token)
    assert "NOBODY" not in str(caught.value) + repr(caught.value.__context__)
    writer.users["hf_other"] = "other"
    with pytest.raises(PushError, match="forbidden"):
        push_folder(saved, REPO, token="hf_other")


def test_only_the_models_own_files_are_published(writer, saved, monkeypatch):
    for name in ("optimizer.pt", "config.yaml", "secrets.txt"):
        (saved / name).write_text("x")
    monkeypatch.setenv("HOME", str(saved.parent))
    push_folder("~/saved", REPO, token=TOKEN)
    assert sorted(writer.files(REPO)) == sorted([".gitattributes", *FILES])
    assert json.loads(writer.files(REPO)["config.json"])["name"] == "entity_moe/digits"


def test_old_ways_of_catching_errors_of_weights_still_catch_those_of_the_hub(hub, tmp_path):
    with pytest.raises(WeightsError) as caught:
        moezoo.create_model("hf-hub:user/nothing", pretrained=True, cache_dir=tmp_path)
    assert isinstance(caught.value, HubError)
    assert caught.value.advice in str(caught.value)
