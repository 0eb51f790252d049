"""``pull_model`` and many processes at one Hub: whole models, checked by both hashes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import constants
from typer.testing import CliRunner

import moezoo
from moezoo.cli import app
from moezoo.errors import HubError, NoSuchFile, WeightsCorrupted, WeightsUnavailable
from moezoo.hub import pull_model, push_folder

TOKEN = "hf_writerWRITERwriter"


@pytest.fixture
def published(hub, saved):
    hub.users[TOKEN] = "user"
    push_folder(saved, "user/digits", token=TOKEN)
    return hub


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_pulled_folder_holds_what_was_pushed_and_needs_no_hub(published, saved, tmp_path):
    folder = pull_model("hf-hub:user/digits", tmp_path / "pulled", cache_dir=tmp_path / "cache")
    there = {name: body for name, body in published.files("user/digits").items() if name != ".gitattributes"}
    card, local_card = there.pop("README.md"), files(folder)["README.md"]
    assert files(folder) == {**there, "README.md": local_card}
    assert local_card == files(saved)["README.md"] != card
    assert there["model.safetensors"] == files(saved)["model.safetensors"]
    published.reset()
    local, pulled = (moezoo.create_model(f"local-dir:{place}", pretrained=True) for place in (saved, folder))
    assert torch.equal(local.head.weight, pulled.head.weight)
    assert pulled.label_names == local.label_names


def test_a_failed_pull_leaves_the_model_that_was_there(published, saved, model, tmp_path):
    folder = moezoo.save_pretrained(model, tmp_path / "pulled")
    before = files(folder)
    published.fault("GET cdn", "flip", 99)
    with pytest.raises(WeightsCorrupted, match="twice"):
        pull_model("hf-hub:user/digits", folder, cache_dir=tmp_path / "cache")
    published.faults.clear()
    # The Hub keeps its promise and delivers exactly what somebody else put there.
    changed = dict(published.files("user/digits"))
    changed["model.safetensors"] = changed["model.safetensors"][:-1] + b"\1"
    published.put("user/digits", changed)
    with pytest.raises(WeightsCorrupted, match=r"its config\.json was saved with"):
        pull_model("hf-hub:user/digits", folder, cache_dir=tmp_path / "cache")
    published.put("user/empty", {})
    with pytest.raises(NoSuchFile, match="no such file"):
        pull_model("hf-hub:user/empty", folder, cache_dir=tmp_path / "cache")
    assert files(folder) == before


def test_a_copy_published_elsewhere_is_loaded_from_there(published, tmp_path):
    folder = pull_model("hf-hub:user/digits", tmp_path / "pulled", cache_dir=tmp_path / "cache")
    push_folder(folder, "user/copy", token=TOKEN)
    card = published.files("user/copy")["README.md"].decode()
    assert 'create_model("hf-hub:user/copy"' in card
    assert "user/digits" not in card


def test_no_card_and_no_image_processor_of_the_model_before_stay(published, saved, model, tmp_path):
    (saved / "README.md").write_bytes(b"caf\xe9")  # not UTF-8, which is no reason to fail
    push_folder(saved, "user/digits", token=TOKEN)
    model.pretrained_cfg = {**model.pretrained_cfg, "mean": None, "std": None}
    bare = moezoo.save_pretrained(model, saved)
    assert not (bare / "preprocessor_config.json").exists()
    (bare / "README.md").unlink()
    push_folder(bare, "user/digits", token=TOKEN)
    assert "preprocessor_config.json" not in published.files("user/digits")
    published.put("user/bare", files(bare))
    folder = tmp_path / "pulled"
    folder.mkdir()
    (folder / "README.md").write_text("mine, of no model")
    pull_model("hf-hub:user/bare", folder, cache_dir=tmp_path / "cache")
    assert (folder / "README.md").read_text() == "mine, of no model"
    pull_model("hf-hub:user/bare", folder, cache_dir=tmp_path / "cache")
    assert sorted(files(folder)) == ["config.json", "model.safetensors"]


def test_a_card_that_cannot_be_reached_is_not_taken_for_none(published, tmp_path):
    published.fault("HEAD hub/.*README", "status", 99, code=403)
    with pytest.raises(HubError, match="README"):
        pull_model("hf-hub:user/digits", tmp_path / "pulled", cache_dir=tmp_path / "cache")


def test_the_command_line_pushes_pulls_and_says_where(published, saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run = CliRunner()
    done = run.invoke(app, ["push", str(saved), "user/again", "--private"], catch_exceptions=False)
    name = f"hf-hub:user/again@{published.repos['user/again'].branches['main']}"
    assert name in done.output
    assert published.repos["user/again"].private
    assert TOKEN not in done.output
    done = run.invoke(app, ["pull", name, str(tmp_path / "pulled")], catch_exceptions=False)
    assert str(tmp_path / "pulled") in done.output.replace("\n", "")
    assert (tmp_path / "pulled" / "model.safetensors").exists()
    done = run.invoke(app, ["pull", name, str(tmp_path / "a[bold]b")], catch_exceptions=False)
    assert "a[bold]b" in done.output
    monkeypatch.delenv("HF_TOKEN")
    assert isinstance(
        run.invoke(app, ["pull", name.replace("again", "nothing"), str(tmp_path / "x")]).exception, HubError
    )
    # A name of the zoo with weights of its own; what it was measured with goes along.
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    run.invoke(app, ["push", "entity_moe/test_vit", "user/vit"], catch_exceptions=False)
    config = json.loads(published.files("user/vit")["config.json"])
    assert config["name"] == "entity_moe/test_vit"
    assert config["metrics"]["dataset"] == "digits"
    card = published.files("user/vit")["README.md"].decode()
    assert "license: mit" in card
    assert 'create_model("hf-hub:user/vit"' in card
    run.invoke(app, ["pull", "entity_moe/test_vit", str(tmp_path / "vit")], catch_exceptions=False)
    there = json.loads((tmp_path / "vit" / "config.json").read_text())
    assert there == config


def test_four_processes_pull_at_once_and_each_file_travels_once(published, saved, tmp_path):
    published.requests.clear()
    children = []
    for i in range(4):
        pid = os.fork()
        if pid == 0:
            try:
                pull_model("hf-hub:user/digits", tmp_path / f"pulled{i}", cache_dir=tmp_path / "cache")
            finally:
                os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    want = files(saved)["model.safetensors"]
    assert [files(tmp_path / f"pulled{i}")["model.safetensors"] == want for i in range(4)] == [True] * 4
    assert published.count("GET", "cdn") == 1
    assert not list(tmp_path.rglob("*.incomplete"))


def test_offline_a_warm_cache_serves_and_a_cold_one_says_so(published, tmp_path, monkeypatch):
    warm = moezoo.create_model("hf-hub:user/digits", pretrained=True, cache_dir=tmp_path / "warm")
    published.requests.clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    again = moezoo.create_model("hf-hub:user/digits", pretrained=True, cache_dir=tmp_path / "warm")
    assert torch.equal(again.head.weight, warm.head.weight)
    with pytest.raises(WeightsUnavailable, match="HF_HUB_OFFLINE"):
        moezoo.create_model("hf-hub:user/digits", pretrained=True, cache_dir=tmp_path / "cold")
    assert published.requests == []


@pytest.mark.skipif(
    os.environ.get("MOEZOO_LIVE_HUB") != "1", reason="set MOEZOO_LIVE_HUB=1 to ask huggingface.co itself"
)
def test_the_live_hub_answers_as_the_loopback_one_does(tmp_path):
    """Reads a small public timm repository with the real service, in a process whose settings are its own."""
    code = (
        "import sys, moezoo; from moezoo.hub import fetch_file;"
        "print(fetch_file('timm/test_vit.r160_in1k', 'model.safetensors', cache_dir=sys.argv[1]));"
        "print(moezoo.create_model('entity_moe/test_vit2', pretrained=True, cache_dir=sys.argv[1]).weights_origin)"
    )
    drop = ("HF_ENDPOINT", "HF_HUB_DISABLE_XET", "NO_PROXY")
    env = {key: value for key, value in os.environ.items() if key not in drop}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert "backbone:test_vit2" in done.stdout
