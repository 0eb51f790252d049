"""Checkpoint folders: round trip, damage, full disks, and what goes into them."""

from __future__ import annotations

import copy
import json
import os
import random
import stat

import numpy as np
import pytest
import timm.optim
import torch
from disks import read_only, small_files, tmpfs
from torch import nn

from moezoo.errors import CheckpointError, ConfigError, MoeZooWarning, NonFiniteError, OutputError
from moezoo.hub import files
from moezoo.train.checkpoint import (
    clear_checkpoints,
    load_checkpoint,
    load_model_state,
    load_optimizer_state,
    model_state,
    newest_checkpoint,
    optimizer_state,
    rng_state,
    save_checkpoint,
    set_rng_state,
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


def test_random_generators_go_on_where_they_were(recwarn):
    random.gauss(0, 1)
    np.random.randn()
    state = json.loads(json.dumps(rng_state()))

    def draw():
        return random.gauss(0, 1), random.random(), np.random.randn(3).tolist(), torch.randn(3).tolist()

    first = draw()
    set_rng_state(state)
    assert draw() == first
    assert not [warning for warning in recwarn if warning.category is MoeZooWarning]
    with pytest.raises(CheckpointError, match="random state"):
        set_rng_state({"python": [3, [1, 2], None]})
    if not torch.cuda.is_available():
        with pytest.warns(MoeZooWarning, match="saved on cuda"):
            set_rng_state({**state, "cuda": ""})


class Tied(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Linear(width, width)
        self.last = nn.Linear(width, width)
        self.last.weight = self.first.weight
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x):
        return self.last(self.norm(self.first(x)).relu())


def step(model, optimizer):
    torch.manual_seed(3)
    optimizer.zero_grad()
    loss = model(torch.randn(5, 6)).square().mean()
    loss.backward()
    optimizer.step(lambda: loss)


def groups_of(model, turn):
    named = list(dict(model.named_parameters()).items())
    parts = [{"params": named[0::2], "lr": 0.01}, {"params": named[1::2], "weight_decay": 0.3}]
    return [{**part, "params": [p for _, p in part["params"][::turn]]} for part in parts[::turn]]


OPTIMIZERS = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1),
    "momentum": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, amsgrad=True),
    "adamw_foreach": lambda groups: torch.optim.AdamW(groups, lr=0.1, foreach=True),
    "adamw_fused": lambda groups: torch.optim.AdamW(groups, lr=0.1, fused=True),
    "adamw_capturable": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(0.1), foreach=False),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, momentum=0.9, centered=True),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
    "adafactor": lambda groups: torch.optim.Adafactor(groups, lr=0.1),
    "lamb": lambda groups: timm.optim.Lamb(groups, lr=0.1),  # counts its steps by a tensor of the group
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_goes_on_bit_for_bit_with_its_groups_in_another_order(tmp_path, name):
    torch.manual_seed(0)
    model = Tied()
    optimizer = OPTIMIZERS[name](groups_of(model, 1))
    for _ in range(3):
        step(model, optimizer)
    optimizer.param_groups[0]["lr"] *= 0.5
    held, values = optimizer_state(optimizer, model)
    path = save_checkpoint(tmp_path, 3, {"model": model_state(model), "optimizer": held}, {"optimizer": values})

    other = Tied()
    again = OPTIMIZERS[name](groups_of(other, -1))
    step(other, again)
    loaded, said = load_checkpoint(path)
    load_model_state(torch.compile(other), loaded["model"])
    load_optimizer_state(again, other, loaded["optimizer"], said["optimizer"])
    assert [float(g["lr"]) for g in again.param_groups] == [float(g["lr"]) for g in optimizer.param_groups[::-1]]
    for _ in range(3):
        step(model, optimizer)
        step(other, again)
    for (key, here), there in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(here, there), key
    # Not one and the same memory: a checkpoint in hand can be loaded twice, by one that has not stepped yet, too.
    fresh = OPTIMIZERS[name](groups_of(other, -1))
    load_optimizer_state(fresh, other, loaded["optimizer"], said["optimizer"])
    step(other, fresh)
    for key, tensor in held.items():
        assert torch.equal(tensor, loaded["optimizer"][key]), key


def test_an_optimizer_that_does_not_fit_is_told_and_left_alone():
    model = Tied()
    optimizer = torch.optim.AdamW(groups_of(model, 1), lr=0.1)
    step(model, optimizer)
    held, values = optimizer_state(optimizer, model)
    before = copy.deepcopy(optimizer.state_dict())

    def refused(words, optimizer=optimizer, model=model, values=values):
        with pytest.raises(CheckpointError, match=words):
            load_optimizer_state(optimizer, model, held, values)

    refused("AdamW, not SGD", torch.optim.SGD(model.parameters(), lr=0.1))
    refused(
        "Only in the checkpoint.*first.weight.*only here .0.: none",
        torch.optim.AdamW([p for p in model.parameters() if p is not model.first.weight]),
    )
    refused("group 0 .*different lr, weight_decay", torch.optim.AdamW(model.parameters()))
    assert str(optimizer.state_dict()) == str(before)
    with pytest.raises(CheckpointError, match=r"not the model's, the first of shape \(6, 6\)"):
        optimizer_state(optimizer, Tied())
    search = torch.optim.LBFGS(model.parameters())
    loss = model(torch.randn(5, 6)).square().mean()
    loss.backward()
    search.step(lambda: loss)
    with pytest.raises(CheckpointError, match=r"state of LBFGS cannot be saved: .* is a list"):
        optimizer_state(search, model)


def test_a_model_that_does_not_fit_is_told_in_one_list_and_left_alone():
    model = Tied()
    state = model_state(nn.parallel.DataParallel(torch.compile(model)))
    assert list(state) == list(model.state_dict())
    before = model_state(model)
    with pytest.raises(CheckpointError, match=r"shape \(8\): .*first.weight: file \(6, 6\) vs model \(7, 7\)"):
        load_model_state(Tied(7), state)
    with pytest.raises(CheckpointError, match=r"dtype \(1\): first.bias: checkpoint float64 vs model float32"):
        load_model_state(model, {**state, "first.bias": state["first.bias"].double() + 1})
    with pytest.raises(CheckpointError, match=r"missing .*norm.bias.*unexpected .*bias.norm"):
        load_model_state(model, {name.replace("norm.bias", "bias.norm"): value + 1 for name, value in state.items()})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
