"""``convert_pth``: tensors out of pickled checkpoints, and nothing else out of them."""

from __future__ import annotations

import argparse
import os

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from typer.testing import CliRunner

import moezoo
from moezoo.cli import app
from moezoo.errors import ConfigError, InputError, NonFiniteError, OutputError, WeightsCorrupted, WeightsUnavailable
from moezoo.hub import convert as convert_module
from moezoo.hub import convert_pth
from moezoo.hub.files import STAGING


class Evil:
    """Unpickling this creates the canary file."""

    def __init__(self, canary):
        self.canary = str(canary)

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def test_a_checkpoint_becomes_a_file_that_checkpoint_path_takes(model, tmp_path):
    state = {f"module._orig_mod.{key}": value for key, value in model.state_dict().items()}
    path = tmp_path / "best.pth.tar"
    torch.save({"epoch": 3, "state_dict": state, "optimizer": {"state": {}}}, path)
    with pytest.raises(ConfigError, match=f"moezoo convert pth {path}"):
        moezoo.create_model("entity_moe/digits", checkpoint_path=path)
    out = tmp_path / "best.safetensors"
    done = CliRunner().invoke(app, ["convert", "pth", str(path), "--out", str(out)], catch_exceptions=False)
    assert str(out) in done.output.replace("\n", "")
    again = moezoo.create_model("entity_moe/digits", checkpoint_path=out)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())
    assert out.stat().st_mode & 0o044
    assert sorted(p.name for p in tmp_path.iterdir()) == ["best.pth.tar", "best.safetensors"]


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"a": torch.ones(2), "b": torch.zeros(1, dtype=torch.int64)}, None),
        ({"model": {"state_dict": {"a": torch.ones(2), "b": torch.zeros(1, dtype=torch.int64)}}, "lr": 0.1}, None),
        ({"ema": {"a": torch.ones(2), "b": torch.zeros(1, dtype=torch.int64)}, "model": {"c": torch.ones(1)}}, "ema"),
    ],
)
def test_the_state_dict_is_found_or_named(tmp_path, content, key):
    torch.save(content, tmp_path / "w.pt")
    found = load_file(convert_pth(tmp_path / "w.pt", key=key))
    assert {name: tuple(value.shape) for name, value in found.items()} == {"a": (2,), "b": (1,)}
    assert found["b"].dtype == torch.int64


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([torch.ones(1)], "holds a list"),
        (torch.ones(1), "holds a Tensor"),
        ({"epoch": 3, "lr": 0.1}, r"epoch \(int\), lr \(float\)"),
        ({}, "no state dict"),
        ({**{str(i): torch.ones(1) for i in range(20)}, "step": 3}, r"step \(int\)"),
        ({1: torch.ones(1)}, "no state dict"),
    ],
)
def test_what_is_no_state_dict_is_told_with_what_there_is(tmp_path, content, words):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=words):
        convert_pth(tmp_path / "w.pth")
    assert not (tmp_path / "w.safetensors").exists()


def test_a_checkpoint_that_holds_itself_ends(tmp_path):
    content: dict = {"epoch": 3}
    content["model"] = content
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match="no state dict"):
        convert_pth(tmp_path / "w.pth")


def test_a_full_disk_is_told_and_what_a_killed_save_left_is_no_failure(tmp_path, monkeypatch):
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    (tmp_path / STAGING).mkdir()
    (tmp_path / STAGING / "theirs").touch()

    def full(*args, **kwargs):
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(convert_module, "save_file", full)
        with pytest.raises(OutputError, match=r"No space left on device \([\d,]+ bytes free\)"):
            convert_pth(tmp_path / "w.pth")
    assert convert_pth(tmp_path / "w.pth").is_file()
    assert (tmp_path / STAGING / "theirs").exists()


def test_code_in_a_pickle_is_never_run(tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "w.pth"
    for content in (Evil(canary), {"state_dict": {"a": torch.ones(1)}, "x": Evil(canary)}, argparse.Namespace(a=1)):
        torch.save(content, path)
        with pytest.raises(WeightsCorrupted, match="was not run"):
            convert_pth(path)
    assert not canary.exists()
    assert not path.with_suffix(".safetensors").exists()


def test_damaged_missing_and_existing_files_are_named(tmp_path):
    path = tmp_path / "w.pth"
    with pytest.raises(WeightsUnavailable, match=str(path)):
        convert_pth(path)
    torch.save({"a": torch.ones(100)}, path)
    whole = path.read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"<html></html>", b"\x80"):
        path.write_bytes(content)
        with pytest.raises(WeightsCorrupted, match=str(path)):
            convert_pth(path)
    path.write_bytes(whole)
    with pytest.raises(ConfigError, match=r"must end in \.safetensors"):
        convert_pth(path, tmp_path / "w.bin")
    torch.save({"ema": {"a": torch.ones(1)}}, tmp_path / "k.pth")
    with pytest.raises(InputError, match=r"there is no 'emma'\. Did you mean: ema"):
        convert_pth(tmp_path / "k.pth", key="emma")
    out = convert_pth(path)
    with pytest.raises(OutputError, match="exists: overwrite=True"):
        convert_pth(path)
    torch.save({"a": torch.tensor([float("nan")])}, path)
    with pytest.raises(NonFiniteError, match="a \\(1 of 1 values\\)"):
        convert_pth(path, overwrite=True)
    assert load_file(out)["a"].shape == (100,)
    torch.save({"b": torch.ones(3)}, path)
    assert list(load_file(convert_pth(path, overwrite=True))) == ["b"]
