"""Training meets NaN, dying readers, full disks and taken folders: it ends with an error that says what, or goes on."""

from __future__ import annotations

import json
import os
import shutil
import time

import pytest
import torch
from disks import read_only, small_files
from faulty_runs import make_model, train
from nursery import alive, eventually
from same_run import rows
from torch import nn

from moezoo.data import ImageTensors, Splits
from moezoo.errors import CheckpointError, MoeZooWarning, NonFiniteError, OutputError, RunLockedError
from moezoo.train import TrainingConfig, fit
from moezoo.train.checkpoint import load_checkpoint, newest_checkpoint

TRAIN = "faulty_runs:train"
pytestmark = pytest.mark.filterwarnings("ignore:the run goes on with other settings")


def newest(run):
    return load_checkpoint(newest_checkpoint(run / "checkpoints"))


def finite(tensors):
    return all(torch.isfinite(tensor).all() for group in tensors.values() for tensor in group.values())


@pytest.mark.parametrize("workers", [0, 2])
def test_an_item_that_raises_names_its_file(nursery, tmp_path, workers):
    log = tmp_path / "log"
    data = {"fault": "raise", "at": 20}
    assert nursery.run(TRAIN, tmp_path / "run", data=data, num_workers=workers, log=log, timeout=30.0) == 1
    assert "DataError" in log.read_text()
    assert "images/number 20.png" in log.read_text()
    assert "ValueError: the decoder gives up" in log.read_text()


def test_a_reading_process_that_dies_names_its_file_and_nothing_hangs(nursery, tmp_path):
    log = tmp_path / "log"
    run = nursery.start(TRAIN, tmp_path / "run", data={"fault": "kill", "at": 20}, num_workers=2, log=log)
    assert run.wait(30.0) == 1
    assert "DataError: a process that reads images died" in log.read_text()
    assert "images/number 20.png" in log.read_text()
    with pytest.raises(ProcessLookupError):
        os.killpg(run.pid, 0)


def test_a_nan_image_stops_before_the_optimizer_and_is_named(tmp_path):
    with pytest.raises(
        NonFiniteError, match=r"epoch 1, step [234] .* the loss is nan.*The batch: .*images/number \d+\.png.*\b0\b"
    ):
        train(str(tmp_path), data={"fault": "nan", "at": 0}, save_every=1)
    tensors, values = newest(tmp_path)
    assert finite(tensors)
    refused = rows(tmp_path / "steps.jsonl")[-1]["step"]
    assert values["standing"]["step"] in (refused, refused - 1)


def test_steps_with_nan_are_left_out_up_to_the_limit(tmp_path):
    fault = {"data": {"fault": "nan", "at": 20}, "on_nonfinite": "skip"}
    assert train(str(tmp_path / "three"), max_skipped_steps=3, **fault) == 0  # one an epoch
    log = rows(tmp_path / "three" / "steps.jsonl")
    assert [row["updated"] for row in log].count(False) == 3
    assert [row["loss"] for row in log].count(None) == 3
    tensors, values = newest(tmp_path / "three")
    assert finite(tensors)
    assert values["standing"]["skipped_steps"] == 3
    with pytest.raises(NonFiniteError, match="step 3 to be left out, max_skipped_steps=2"):
        train(str(tmp_path / "two"), max_skipped_steps=2, **fault)


class Steep(nn.Linear):
    """The gradient of its weight becomes infinite at the third backward, the loss never."""

    def __init__(self):
        super().__init__(4, 4)
        self.backwards = 0
        self.weight.register_hook(self.grow)

    def grow(self, gradient):
        self.backwards += 1
        return gradient * torch.inf if self.backwards == 3 else gradient

    def forward(self, x):
        return super().forward(x.flatten(1))


def test_an_infinite_gradient_is_refused_or_left_out(toy_splits, tmp_path):
    config = {"epochs": 1, "batch_size": 8, "warmup_epochs": 0.0, "device": "cpu", "save_every": 1}
    model = Steep()
    with pytest.raises(NonFiniteError, match=r"epoch 1, step 3 of 8: the gradient's norm is (inf|nan)"):
        fit(model, toy_splits, TrainingConfig(**config), out=tmp_path / "stop")
    tensors, values = newest(tmp_path / "stop")
    assert values["standing"]["step"] == 2
    assert torch.equal(tensors["model"]["weight"], model.weight)  # the weights of the step before
    fit(Steep(), toy_splits, TrainingConfig(on_nonfinite="skip", **config), out=tmp_path / "skip")
    assert [row["step"] for row in rows(tmp_path / "skip" / "steps.jsonl") if not row["updated"]] == [3]


@pytest.fixture(scope="module")
def first_epoch(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first")
    assert train(str(folder), resume=None, epochs=1, save_every=None) == 0
    return folder


def test_a_full_disk_stops_the_run_or_is_said_once_and_the_last_checkpoint_stays(first_epoch, tmp_path):
    for policy in ("stop", "continue"):
        run = shutil.copytree(first_epoch, tmp_path / policy)
        options = {"epochs": 3, "save_every": None, "on_full_disk": policy}
        with small_files(20_000):  # room for the logs, not for a checkpoint's 30 kB of random states
            if policy == "stop":
                with pytest.raises(OutputError, match=r"checkpoints.* \([\d,]+ bytes free\)"):
                    train(str(run), **options)
            else:
                with pytest.warns(MoeZooWarning, match=r"File too large \([\d,]+ bytes free\).*goes on") as said:
                    assert train(str(run), **options) == 0
                assert len([w for w in said if "File too large" in str(w.message)]) == 1
                assert [row["epoch"] for row in rows(run / "metrics.jsonl")] == [1, 2, 3]
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
        assert newest(run)[1]["standing"]["step"] == 4
        assert train(str(run), epochs=3, save_every=None) == 0  # with room it goes on
        assert newest(run)[1]["standing"]["step"] == 12


def test_a_folder_that_cannot_be_written_is_found_before_training(tmp_path):
    model = make_model()
    before = [parameter.clone() for parameter in model.parameters()]
    part = ImageTensors(torch.zeros(8, 1, 2, 2), torch.arange(8) % 4)
    splits = Splits("zeros", part, part, part, tuple("abcd"), (0.5,), (0.5,))
    with read_only(tmp_path / "sealed") as sealed:
        for place in (sealed, sealed / "run"):
            with pytest.raises(OutputError, match=str(place)):
                fit(model, splits, TrainingConfig(device="cpu"), out=place)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_folder_in_which_another_process_trains_is_refused_and_its_run_not_disturbed(nursery, tmp_path):
    owner = nursery.start(TRAIN, tmp_path, told=str(tmp_path), data={"pause": 0.01}, log=tmp_path / "log")
    eventually((tmp_path / "told-1").exists, "the first run trains")
    begin = time.monotonic()
    for resume in ("auto", None):
        with pytest.raises(RunLockedError, match=f"process {owner.pid} on "):
            train(str(tmp_path), resume=resume)
    assert time.monotonic() - begin < 30
    assert alive(owner.pid)
    assert owner.wait() == 0, owner.text()
    assert [row["step"] for row in rows(tmp_path / "steps.jsonl")] == list(range(1, 13))


def test_a_damaged_newest_checkpoint_does_not_stop_a_resume(first_epoch, tmp_path):
    run = shutil.copytree(first_epoch, tmp_path / "run")
    assert train(str(run), epochs=2, save_every=2) == 0
    last = newest_checkpoint(run / "checkpoints")
    (last / "optimizer.safetensors").write_bytes(b"")
    with pytest.warns(MoeZooWarning, match=f"{last.name}.*optimizer.safetensors.*step-00000006, is used"):
        assert train(str(run), epochs=2, save_every=2) == 0
    assert [row["step"] for row in rows(run / "steps.jsonl")] == list(range(1, 9))


def test_a_checkpoint_of_a_newer_moezoo_is_refused_not_passed_over(first_epoch, tmp_path):
    run = shutil.copytree(first_epoch, tmp_path / "run")
    assert train(str(run), epochs=2, save_every=2) == 0
    file = newest_checkpoint(run / "checkpoints") / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format_version": 99}))
    with pytest.raises(CheckpointError, match=r"format_version 99, this moezoo .* reads up to 1"):
        train(str(run), epochs=2, save_every=2)
