"""Checkpoint folders: round trip, damage, full disks."""

from __future__ import annotations

import json
import os
import stat

import numpy as np
import pytest
import torch
from disks import read_only, small_files, tmpfs

from moezoo.errors import CheckpointError, ConfigError, MoeZooWarning, NonFiniteError, OutputError
from moezoo.hub import files
from moezoo.train.checkpoint import (
    clear_checkpoints,
    load_checkpoint,
    newest_checkpoint,
    save_checkpoint,
    tidy_checkpoints,
)


def tensors(value=1.0, size=100):
    return {"model": {"weight": torch.full((size,), value)}, "optimizer": {"exp_avg:weight": torch.zeros(size)}}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def value_in(path):
    return load_checkpoint(path)[0]["model"]["weight"][0].item()


def test_what_is_saved_comes_back_and_older_ones_go(tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    assert newest_checkpoint(folder) is None
    table = torch.randn(4, 3)
    groups = {
        "model": {"tied": table, "other": table, "turned": table.t(), "part": table[1:], "scalar": torch.tensor(3)},
        "best": {"half": torch.randn(2).half(), "brain": torch.randn(2).bfloat16(), "flag": torch.tensor([True])},
        "ema": {},
    }
    values = {"epoch": 3, "lr": 0.1 + 0.2, "list": (1, None, True), "map": {"é": "ü"}, "numpy": np.float64(1e-300)}
    path = save_checkpoint(folder, 7, groups, values)
    assert path == folder / "step-00000007"
    assert names(path) == ["best.safetensors", "ema.safetensors", "model.safetensors", "state.json"]
    back, said = load_checkpoint(path)
    assert said == {**values, "list": [1, None, True]}
    assert {name: set(group) for name, group in back.items()} == {name: set(group) for name, group in groups.items()}
    for name, group in groups.items():
        for key, tensor in group.items():
            assert back[name][key].dtype == tensor.dtype
            assert torch.equal(back[name][key], tensor)

    for step in (8, 9, 123456789):
        save_checkpoint(folder, step, tensors(), {}, keep=2)
    assert names(folder) == ["step-00000009", "step-123456789"]
    # The run went back to step 9: what came after belongs to a course it has left. The same step may come again.
    assert save_checkpoint(folder, 9, tensors(5.0), {}, keep=3).name == "step-00000009.2"
    assert names(folder) == ["step-00000009.2"]
    save_checkpoint(folder, 10, tensors(), {}, keep=1)
    assert names(folder) == ["step-00000010"]
    clear_checkpoints(folder)
    assert names(folder) == []


def test_files_are_flushed_before_the_rename_and_open_to_the_umask(tmp_path, monkeypatch):
    happened = []

    def note(name):
        real = getattr(os, name)

        def noted(target, *rest):
            path = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
            happened.append((name, os.path.basename(path)))
            return real(target, *rest)

        monkeypatch.setattr(files.os, name, noted)

    if not os.path.exists("/proc/self/fd"):
        pytest.skip("needs /proc to tell which file a descriptor is")
    note("fsync")
    note("replace")
    before = os.umask(0o027)
    try:
        path = save_checkpoint(tmp_path / "checkpoints", 1, tensors(), {})
    finally:
        os.umask(before)
    happened = [(name, ".saving" if place.startswith(".saving") else place) for name, place in happened]
    assert happened == [
        ("fsync", tmp_path.name),
        ("fsync", "model.safetensors"),
        ("fsync", "optimizer.safetensors"),
        ("fsync", "state.json"),
        ("fsync", ".saving"),
        ("replace", ".saving"),
        ("fsync", "checkpoints"),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o750
    assert {stat.S_IMODE(file.stat().st_mode) for file in path.iterdir()} == {0o640}


def cut(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def flip(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))


def change(file):
    file.write_text(file.read_text().replace('"epoch": ', '"epoch": 1'))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("model.safetensors", cut),
        ("optimizer.safetensors", flip),
        ("optimizer.safetensors", os.remove),
        ("state.json", cut),
        ("state.json", os.remove),
        ("state.json", change),
        ("state.json", lambda file: file.write_text("[]")),
    ],
)
def test_a_damaged_newest_one_is_passed_over_with_a_warning(tmp_path, name, damage):
    old = save_checkpoint(tmp_path, 1, tensors(1.0), {"epoch": 1})
    new = save_checkpoint(tmp_path, 2, tensors(2.0), {"epoch": 2})
    damage(new / name)
    with pytest.raises(CheckpointError, match=f"step-00000002.*{name}"):
        load_checkpoint(new)
    with pytest.warns(MoeZooWarning, match=f"step-00000002.*{name}.*step-00000001, is used"):
        assert newest_checkpoint(tmp_path) == old
    damage(old / name)
    with pytest.raises(CheckpointError, match=r"no checkpoint .* can be used: .*step-00000002.*step-00000001"):
        newest_checkpoint(tmp_path)


def test_a_checkpoint_of_a_newer_moezoo_is_refused_with_both_versions(tmp_path):
    save_checkpoint(tmp_path, 1, tensors(), {})
    new = save_checkpoint(tmp_path, 2, tensors(), {}) / "state.json"
    new.write_text(json.dumps({**json.loads(new.read_text()), "format_version": 99, "moezoo_version": "7.8"}))
    for read in (newest_checkpoint, lambda folder: load_checkpoint(folder / "step-00000002")):
        with pytest.raises(CheckpointError, match=r"format_version 99, this moezoo .* reads up to 1: .* moezoo 7\.8"):
            read(tmp_path)
    with pytest.raises(CheckpointError, match=r"no checkpoint folder.*step-00000001"):
        load_checkpoint(tmp_path / "step-0000001")


def test_what_a_killed_save_left_counts_for_nothing_and_is_tidied(tmp_path):
    path = save_checkpoint(tmp_path, 1, tensors(), {})
    for left in (".saving-00000002-abc", ".removing-step-00000000"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "model.safetensors").write_bytes(b"half")
    (tmp_path / "step-00000009").write_text("a file of the user")
    assert newest_checkpoint(tmp_path) == path
    tidy_checkpoints(tmp_path)
    assert names(tmp_path) == ["step-00000001", "step-00000009"]
    tidy_checkpoints(tmp_path / "not there")


def test_a_full_disk_names_path_and_free_bytes_and_leaves_the_older_one(tmp_path):
    old = save_checkpoint(tmp_path / "checkpoints", 1, tensors(1.0), {})
    for group in ("model", "optimizer"):
        content = tensors(2.0)
        content[group]["big"] = torch.zeros(100_000)
        with small_files(200_000), pytest.raises(OutputError, match=r"checkpoints.* \([\d,]+ bytes free\)"):
            save_checkpoint(tmp_path / "checkpoints", 2, content, {})
    with small_files(200_000), pytest.raises(OutputError, match="File too large"):
        save_checkpoint(tmp_path / "checkpoints", 2, tensors(2.0), {"text": "x" * 300_000})
    assert names(tmp_path / "checkpoints") == [old.name]
    assert newest_checkpoint(tmp_path / "checkpoints") == old
    assert value_in(save_checkpoint(tmp_path / "checkpoints", 2, tensors(2.0), {})) == 2.0


def test_a_full_file_system_leaves_the_older_one(tmp_path):
    with tmpfs(tmp_path / "small", 4) as disk:
        old = save_checkpoint(disk / "checkpoints", 1, tensors(1.0, 200_000), {})  # 1.6 MB
        for _ in range(3):
            with pytest.raises(OutputError, match=r"No space left on device.* \([\d,]+ bytes free\)"):
                save_checkpoint(disk / "checkpoints", 2, tensors(2.0, 400_000), {})  # 3.2 MB
            assert names(disk / "checkpoints") == [old.name]
        assert newest_checkpoint(disk / "checkpoints") == old
        assert value_in(save_checkpoint(disk / "checkpoints", 2, tensors(2.0, 200_000), {})) == 2.0


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path):
    (tmp_path / "file").write_text("")
    with read_only(tmp_path / "sealed") as sealed:
        for place in (sealed, sealed / "below", tmp_path / "file", tmp_path / "file" / "below"):
            with pytest.raises(OutputError, match=str(place)):
                save_checkpoint(place, 1, tensors(), {})
            with pytest.raises(OutputError, match=str(place)):
                files.check_writable(place)
        assert names(sealed) == []


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"tensors": {"model": {"a": torch.tensor([1.0, torch.nan])}}}, NonFiniteError, r"'model'.*a \(1 of 2"),
        ({"tensors": {"model": {"a": torch.zeros(2).to_sparse()}}}, CheckpointError, "a .Tensor"),
        ({"tensors": {"../model": {}}}, ConfigError, "../model"),
        ({"values": {"a": [{"b": float("inf")}]}}, CheckpointError, r"values\['a'\]\[0\]\['b'\] is inf"),
        ({"values": {"a": {3: 4}}}, CheckpointError, r"values\['a'\] has the key 3"),
        ({"values": {"a": torch.zeros(1)}}, CheckpointError, r"values\['a'\] is a Tensor"),
        ({"keep": 0}, ConfigError, "keep=0"),
    ],
)
def test_what_cannot_be_stored_is_refused_before_anything_is_written(tmp_path, change, error, words):
    given = {"tensors": tensors(), "values": {}, **change}
    with pytest.raises(error, match=words):
        save_checkpoint(tmp_path / "checkpoints", 1, **given)
    assert not (tmp_path / "checkpoints").exists()
