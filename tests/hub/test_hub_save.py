"""``save_pretrained``: what it writes, what it refuses, and that a failure leaves the older model whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError, NonFiniteError, OutputError
from moezoo.hub import save as save_module
from moezoo.hub import swap as swap_module
from moezoo.hub.card import model_card
from moezoo.hub.files import STAGING, check_writable
from moezoo.hub.load import load_weights, read_stored
from moezoo.hub.stored_model import StoredModel

FILES = ["README.md", "config.json", "model.safetensors", "preprocessor_config.json"]


def state_equal(one: nn.Module, other: nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_a_saved_model_comes_back_with_the_same_outputs_labels_and_data(model, tmp_path):
    labels = [f"class {i}" for i in range(10)]
    folder = moezoo.save_pretrained(model, tmp_path / "new" / "folder", label_names=labels, metrics={"top1": 0.25})
    assert sorted(p.name for p in folder.iterdir()) == FILES
    stored = read_stored(f"local-dir:{folder}")
    assert stored.label_names == tuple(labels)
    assert stored.metrics == {"top1": 0.25}
    assert stored.data["input_size"] == tuple(model.pretrained_cfg["input_size"])
    assert stored.config == model.moezoo_config
    back = moezoo.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = torch.randn(2, *model.pretrained_cfg["input_size"])
    assert torch.equal(back(images), model.eval()(images))


def test_config_json_carries_the_hash_of_the_weights(saved):
    content = json.loads((saved / "config.json").read_text())
    assert content["format_version"] == 4
    assert content["moezoo_version"] == moezoo.__version__
    assert content["weights_sha256"] == hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()


def test_files_get_the_mode_the_umask_asks_for(model, tmp_path):
    old = os.umask(0o027)
    try:
        moezoo.save_pretrained(model, tmp_path)
    finally:
        os.umask(old)
    assert {p.name: p.stat().st_mode & 0o777 for p in tmp_path.iterdir()} == dict.fromkeys(FILES, 0o640)


def test_a_model_works_on_after_training_in_mixed_precision_and_can_be_saved(model, tmp_path):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    images = torch.randn(4, *model.pretrained_cfg["input_size"])
    nn.functional.cross_entropy(model(images), torch.arange(4)).backward()
    optimizer.step()
    model.head.bfloat16()
    moezoo.save_pretrained(model, tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["head.weight"].dtype == torch.bfloat16
    back = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert back.head.weight.dtype == torch.float32
    assert torch.equal(back.head.weight, model.head.weight.float())


def test_compiled_and_parallel_wrappers_are_seen_through(model, tmp_path):
    moezoo.save_pretrained(torch.compile(nn.DataParallel(model)), tmp_path)
    assert sorted(load_file(tmp_path / "model.safetensors")) == sorted(model.state_dict())


def test_keys_of_a_compiled_submodule_are_plain(model, tmp_path):
    names = sorted(model.state_dict())
    model.blocks[0] = torch.compile(model.blocks[0])
    moezoo.save_pretrained(model, tmp_path)
    assert sorted(load_file(tmp_path / "model.safetensors")) == names


@dataclass(frozen=True)
class Other:
    num_classes: int = 10


class Odd(nn.Module):
    """Tied, transposed and sliced tensors under one roof."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.register_buffer("transposed", torch.arange(6.0).reshape(2, 3).t())
        whole = torch.arange(8.0)
        self.register_buffer("left", whole[:5])
        self.register_buffer("right", whole[3:])
        self.register_buffer("scalar", torch.tensor(3))
        self.register_buffer("empty", torch.zeros(0, 2))
        self.moezoo_name = "entity_moe/digits"
        self.moezoo_config = moezoo.model_config("entity_moe/digits")


def test_tied_transposed_and_overlapping_tensors_survive(tmp_path):
    torch.manual_seed(0)
    odd = Odd()
    moezoo.save_pretrained(odd, tmp_path)
    torch.manual_seed(1)
    other = Odd()
    assert not torch.equal(other.a.weight, odd.a.weight)
    load_weights(other, tmp_path / "model.safetensors")
    assert state_equal(odd, other)
    assert other.a.weight is other.b.weight


def test_nonfinite_tensors_are_refused_by_name_and_nothing_is_written(model, tmp_path):
    with torch.no_grad():
        model.head.bias[3] = float("nan")
        model.head.weight[0, 0] = float("inf")
    with pytest.raises(NonFiniteError, match=r"head\.weight \(1 of 640 values\), head\.bias \(1 of 10 values\)"):
        moezoo.save_pretrained(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_model_moezoo_did_not_build_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Linear has no moezoo_config.*create_model"):
        moezoo.save_pretrained(nn.Linear(2, 2), tmp_path)


def test_state_that_is_not_a_dense_tensor_is_refused_by_name(tmp_path):
    odd = Odd()
    odd.register_buffer("thin", torch.eye(3).to_sparse())
    odd.register_buffer("ghost", torch.empty(2, device="meta"))
    with pytest.raises(InputError, match=r"thin .*ghost"):
        moezoo.save_pretrained(odd, tmp_path)


@pytest.mark.parametrize(
    ("metrics", "words"),
    [({"loss": float("nan")}, "loss"), ({"a": torch.ones(1)}, "'a'"), ([1], "mapping"), ({1: 2}, "mapping")],
)
def test_metrics_must_be_plain_json(model, tmp_path, metrics, words):
    with pytest.raises(ConfigError, match=words):
        moezoo.save_pretrained(model, tmp_path, metrics=metrics)


def test_what_could_not_be_read_back_is_not_written(model, tmp_path):
    data = model.pretrained_cfg
    model.pretrained_cfg = {**data, "mean": "bright"}
    with pytest.raises(ConfigError, match=r"model\.pretrained_cfg: mean='bright'"):
        moezoo.save_pretrained(model, tmp_path)
    model.pretrained_cfg = data
    with pytest.raises(ConfigError, match=r"config\.json would have 1,\d{3},\d{3} bytes"):
        moezoo.save_pretrained(model, tmp_path, metrics={"note": "x" * 1_000_000})
    model.moezoo_config = Other()
    with pytest.raises(ConfigError, match="does not belong to a Other"):
        moezoo.save_pretrained(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("labels", ["abcdefghij", ["a", "b"], list(range(10))])
def test_labels_must_be_one_string_per_class(model, tmp_path, labels):
    with pytest.raises(ConfigError, match="label_names"):
        moezoo.save_pretrained(model, tmp_path, label_names=labels)


def test_a_place_that_cannot_be_written_is_told_before_any_work(tmp_path):
    occupied = tmp_path / "file"
    occupied.write_text("x")
    for place in (occupied, occupied / "below", "/proc/moezoo"):
        with pytest.raises(OutputError, match=str(place)):
            check_writable(place)
    assert check_writable(tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def full_disk(*args, **kwargs):
    raise OSError(28, "No space left on device")


STAGES = [(save_module, "save_file"), *((swap_module, name) for name in ("seal", "file_digest", "write_text"))]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage[1])
def test_a_full_disk_at_any_stage_leaves_the_older_model_and_no_litter(saved, model, monkeypatch, stage):
    old = {p.name: p.read_bytes() for p in saved.iterdir()}

    monkeypatch.setattr(*stage, full_disk)
    with pytest.raises(OutputError, match=r"No space left on device \([\d,]+ bytes free\)"):
        moezoo.save_pretrained(model, saved)
    assert {p.name: p.read_bytes() for p in saved.iterdir()} == old


KILLED = """
import os, sys, torch
torch.set_num_threads(1)
import moezoo
from moezoo.hub import files
torch.manual_seed(1)
model = moezoo.create_model("entity_moe/digits")
real, left = os.replace, 0
def replace(source, target):
    global left
    if left == 0:
        os._exit(9)
    left -= 1
    real(source, target)
files.os.replace = replace
for left, folder in enumerate(sys.argv[1:]):
    child = os.fork()
    if child == 0:
        moezoo.save_pretrained(model, folder)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9, folder
"""


def test_a_process_killed_at_any_rename_leaves_one_whole_model(saved, model, tmp_path, monkeypatch):
    """The renames are: weights under their hash, config.json, weights under their name, the rest."""
    old = moezoo.create_model(f"local-dir:{saved}", pretrained=True)
    left = moezoo.create_model("entity_moe/digits")

    def whole_model_of(folder):
        stored = read_stored(f"local-dir:{folder}")
        load_weights(left, stored.weights_path(), sha256=stored.weights_sha256)
        return left

    folders = [Path(shutil.copytree(saved, tmp_path / f"killed{i}")) for i in range(4)]
    done = subprocess.run([sys.executable, "-c", KILLED, *map(str, folders)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for folder, survivor in zip(folders, (old, old, model, model), strict=True):
        assert state_equal(whole_model_of(folder), survivor)
        with monkeypatch.context() as patch:
            patch.setattr(save_module, "save_file", full_disk)
            with pytest.raises(OutputError):
                moezoo.save_pretrained(model, folder)
        assert state_equal(whole_model_of(folder), survivor)
    with torch.no_grad():
        model.head.bias.add_(1)
    for folder in folders:
        moezoo.save_pretrained(model, folder)
        assert sorted(p.name for p in folder.iterdir()) == FILES
        assert state_equal(whole_model_of(folder), model)


def test_several_savers_into_one_folder_leave_a_matching_pair(model, tmp_path):
    failures = []

    def work():
        try:
            moezoo.save_pretrained(model, tmp_path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert state_equal(moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True), model)
    assert not (tmp_path / STAGING).exists()


def test_the_card_states_licence_base_model_metrics_and_how_to_use_it(saved):
    stored = json.loads((saved / "config.json").read_text())
    cfg = {"license": "apache-2.0", "hf_hub_id": "timm/vit_tiny.tag@main", "architecture": "vit_tiny"}
    card = model_card({**stored, "metrics": {"top|1": 0.123456789}}, cfg, repo_id="user/repo")
    head, body = card.split("---\n", 2)[1:]
    assert "license: apache-2.0" in head
    assert "base_model: timm/vit_tiny.tag\n" in head
    assert "library_name: moezoo" in head
    assert all(f"- {tag}" in head for tag in ("image-classification", "mixture-of-experts", "moezoo"))
    assert 'moezoo.create_model("hf-hub:user/repo", pretrained=True)' in body
    assert "| top\\|1 | 0.123457 |" in body
    assert "| num_experts | 4 |" in body


def test_a_model_trained_from_scratch_claims_no_base_model(model, tmp_path):
    model.pretrained_cfg = {**model.pretrained_cfg, "hf_hub_id": "timm/x", "license": "apache-2.0"}
    moezoo.save_pretrained(model, tmp_path)
    assert "base_model" not in (tmp_path / "README.md").read_text()
    model.weights_origin = "backbone:x"
    moezoo.save_pretrained(model, tmp_path)
    assert "base_model: timm/x" in (tmp_path / "README.md").read_text()
    # Loaded from a folder, nobody knows where its weights began; from the Hub, everybody does.
    again = moezoo.create_model(f"local-dir:{tmp_path}", pretrained=True)
    again.pretrained_cfg = model.pretrained_cfg
    card = (moezoo.save_pretrained(again, tmp_path / "again") / "README.md").read_text()
    assert "base_model" not in card
    assert "license: unknown" in card
    again.weights_origin = "hf-hub:user/repo@main"
    card = (moezoo.save_pretrained(again, tmp_path / "again") / "README.md").read_text()
    assert "base_model: user/repo\n" in card
    assert "license: unknown" in card


def test_a_reader_is_not_disturbed_by_a_save(saved, model, monkeypatch):
    old = moezoo.create_model(f"local-dir:{saved}", pretrained=True)
    saver = threading.Thread(target=moezoo.save_pretrained, args=(model, saved))
    real = StoredModel.weights_files

    def slowly(stored):
        found = real(stored)
        saver.start()
        saver.join(timeout=1)
        return found

    monkeypatch.setattr(StoredModel, "weights_files", slowly)
    assert state_equal(moezoo.create_model(f"local-dir:{saved}", pretrained=True), old)
    saver.join()
    monkeypatch.undo()
    assert state_equal(moezoo.create_model(f"local-dir:{saved}", pretrained=True), model)
