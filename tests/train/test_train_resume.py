import json
import logging
import os
import signal
import warnings

import pytest
import torch
from torch import nn
from train_toys import SignalAt, Toy, config, toy, weights

import moezoo
from moezoo.config import to_dict
from moezoo.data import ImageTensors
from moezoo.errors import CheckpointError, ConfigError, Interrupted, MoeZooWarning, OutputError, UnreadableImage
from moezoo.train import fit, seeded
from moezoo.train.facts import check_facts, run_facts

EVERYTHING = {"epochs": 3, "mixup": 0.4, "cutmix": 0.5, "ema_decay": 0.9, "grad_accum_steps": 2, "batch_size": 4}
"""64 images: 8 steps an epoch."""


class Jitter:
    """A random change that python, numpy and torch have a part in."""

    def __call__(self, image):
        import random

        import numpy as np

        return image + 0.05 * (random.random() + np.random.rand() + torch.randn(image.shape))


@pytest.fixture(scope="module")
def random_splits(toy_splits):
    import dataclasses

    train = ImageTensors(toy_splits.train.images, toy_splits.train.labels, Jitter())
    return dataclasses.replace(toy_splits, train=train)


def outcome(model, result, folder):
    steps = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return (
        weights(model).tolist(),
        [[getattr(m, k) for k in ("epoch", "lr", "loss", "aux_loss", "grad_norm", "val_loss")] for m in result.history],
        [[row[k] for k in ("step", "epoch", "lr", "loss", "aux_loss", "grad_norm", "routing")] for row in steps],
        result.best_epoch,
        result.test.classification.loss,
    )


def model_with_state():
    """A router with a buffer that changes by rule, and batch normalisation."""
    model = toy(router="sigmoid_bias", top_k=2)
    model.norm = nn.BatchNorm1d(4)
    model.head = nn.Sequential(model.norm, model.head)
    return model


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_in_mid_epoch_equals_the_uninterrupted_one_bit_for_bit(random_splits, tmp_path, workers):
    settings = config(**EVERYTHING, num_workers=workers)
    model = model_with_state()
    whole = outcome(model, fit(model, random_splits, settings, out=tmp_path / "whole"), tmp_path / "whole")
    stops = [3, 8, 6] if workers == 0 else [11]  # in an epoch, at its end, in the next one
    for stop in stops:
        model = model_with_state()
        with pytest.raises(Interrupted, match="is saved in") as caught:
            fit(model, random_splits, settings, out=tmp_path / "run", resume="auto", observer=SignalAt(stop))
        assert caught.value.exit_code == 143
        torch.manual_seed(stop)  # nothing of the caller's has a say
    model = model_with_state()
    result = fit(model, random_splits, settings, out=tmp_path / "run", resume="auto")
    assert outcome(model, result, tmp_path / "run") == whole
    assert [json.loads(x)["epoch"] for x in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3]
    # A finished run that is resumed has nothing left to train, and says the same.
    model = model_with_state()
    result = fit(model, random_splits, settings, out=tmp_path / "run", resume="auto")
    assert outcome(model, result, tmp_path / "run") == whole
    # An older checkpoint, in another folder.
    model = model_with_state()
    older = sorted((tmp_path / "run" / "checkpoints").iterdir())[0]
    result = fit(model, random_splits, settings, out=tmp_path / "other", resume=older)
    assert outcome(model, result, tmp_path / "other")[0] == whole[0]


class InterruptedOnce(Toy):
    """Gets SIGINT in its evaluation number ``ask``: one per validation, then the test."""

    ask, evaluations = 0, 0

    def forward(self, images):
        self.evaluations += not self.training
        if self.evaluations == self.ask and not self.training:
            os.kill(os.getpid(), signal.SIGINT)
        return super().forward(images)


@pytest.mark.parametrize(("ask", "step"), [(2, 16), (4, 24)], ids=["validation", "test"])
def test_ctrl_c_in_an_evaluation_saves_the_trained_weights_and_gives_the_handlers_back(toy_splits, tmp_path, ask, step):
    settings = config(epochs=3, ema_decay=0.9, batch_size=8)  # one forward in an evaluation
    with seeded(0):
        model, twin = InterruptedOnce(), InterruptedOnce()
    twin.load_state_dict(model.state_dict())
    whole = outcome(model, fit(model, toy_splits, settings, out=tmp_path / "whole"), tmp_path / "whole")
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    twin.ask = ask
    with pytest.raises(Interrupted, match=f"step {step}, in epoch") as caught:
        fit(twin, toy_splits, settings, out=tmp_path / "run")
    assert caught.value.exit_code == 130
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    with seeded(1):
        other = InterruptedOnce()
    assert (
        outcome(other, fit(other, toy_splits, settings, out=tmp_path / "run", resume="auto"), tmp_path / "run") == whole
    )
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2
    with pytest.raises(Interrupted, match="step 2, in epoch 1, is the last and not saved"):
        fit(toy(), toy_splits, config(), observer=SignalAt(2))


def test_a_folder_with_a_run_is_not_written_over_unasked(toy_splits, tmp_path, caplog):
    first = fit(toy(), toy_splits, config(epochs=1), out=tmp_path)
    with pytest.raises(OutputError, match=r"--resume auto.*--overwrite"):
        fit(toy(), toy_splits, config(epochs=1), out=tmp_path)
    with pytest.raises(ConfigError, match="one of them"):
        fit(toy(), toy_splits, config(epochs=1), out=tmp_path, resume="auto", overwrite=True)
    with pytest.raises(ConfigError, match="need out"):
        fit(toy(), toy_splits, config(epochs=1), resume="auto")
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run"):
        fit(toy(), toy_splits, config(epochs=1), out=tmp_path, resume=tmp_path / "absent")
    for name in ("model.safetensors", "model-00001-of-00002.safetensors", "model-mine.safetensors"):
        (tmp_path / name).write_text("of the first run")
    again = fit(toy(), toy_splits, config(epochs=2), out=tmp_path, overwrite=True)
    assert [path.name for path in tmp_path.glob("model*")] == ["model-mine.safetensors"]
    assert (len(first.history), len(again.history)) == (1, 2)
    assert [p.name for p in sorted((tmp_path / "checkpoints").iterdir())] == ["step-00000004", "step-00000008"]
    assert len((tmp_path / "steps.jsonl").read_text().splitlines()) == 8
    with caplog.at_level(logging.INFO, "moezoo"):
        fit(toy(), toy_splits, config(epochs=1), out=tmp_path / "fresh", resume="auto")
    assert "begins afresh" in caplog.text


def test_a_resume_that_would_be_another_run_is_refused_and_names_the_difference(toy_splits, tmp_path):
    import dataclasses

    out = tmp_path / "run"
    fit(toy(), toy_splits, config(epochs=1), out=out)
    images, labels = toy_splits.train.images, toy_splits.train.labels
    relabelled = dataclasses.replace(toy_splits, train=ImageTensors(images, labels.flip(0)))
    fewer = dataclasses.replace(toy_splits, train=ImageTensors(images[:32], labels[:32]))
    wider = toy()
    wider.head = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))
    before = weights(wider).clone()
    for model, splits, settings, named in (
        (toy(), toy_splits, config(epochs=1, seed=5), r"training\.seed: 0 in the checkpoint, 5 now"),
        (toy(), relabelled, config(epochs=1), r"data\.content"),
        (toy(), fewer, config(epochs=1), r"data\.train: 64 in the checkpoint, 32 now"),
        (wider, toy_splits, config(epochs=1), r"model\.parameters"),
    ):
        with pytest.raises(CheckpointError, match=named):
            fit(model, splits, settings, out=out, resume="auto")
    assert torch.equal(weights(wider), before)
    with pytest.warns(MoeZooWarning, match=r"batch_size: 16 in the checkpoint, 8 now.*lr: 0\.03 in the") as caught:
        result = fit(toy(), toy_splits, config(epochs=2, batch_size=8, lr=0.01), out=out, resume="auto")
    assert "epochs: 1" in str(caught[0].message)
    rows = [json.loads(line) for line in (out / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 13))  # 4 steps of 16, then 8 of 8
    assert rows[4]["lr"] == 0.01  # half of the images are behind it, whatever the number of steps
    assert rows[-1]["lr"] == result.history[1].lr == pytest.approx(1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error", MoeZooWarning)  # what does not touch the weights may change without a word
        settings = config(epochs=2, batch_size=8, lr=0.01, log_every=2, keep_checkpoints=1, num_workers=1)
        fit(toy(), toy_splits, settings, out=out, resume="auto")


def test_what_a_later_version_added_does_not_stand_in_the_way(toy_splits):
    facts, plain = run_facts(toy(), toy_splits, {"size": 2}), to_dict(config())
    older = {key: value for key, value in plain.items() if key != "mixup"}
    added = {**facts, "model": {**facts["model"], "new_field": 3}}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_facts(facts, older, 1, facts=added, config=config(), world=1)
    with pytest.raises(CheckpointError, match=r"data\.size: None in the checkpoint, 2 now"):
        check_facts(run_facts(toy(), toy_splits), plain, 1, facts=facts, config=config(), world=1)
    check_facts(
        run_facts(toy(), toy_splits, {"size": 2, "root": "/elsewhere"}), plain, 1, facts=facts, config=config(), world=1
    )
    with pytest.warns(MoeZooWarning, match="processes: 1 in the checkpoint, 4 now"):
        check_facts(facts, plain, 1, facts=facts, config=config(), world=4)


def test_a_model_under_another_of_its_names_is_the_same_model(toy_splits):
    plain = moezoo.create_model("entity_moe/test_vit")
    complete = moezoo.create_model("entity_moe/test_vit", **to_dict(plain.moezoo_config))  # as config.yaml has it
    assert plain.moezoo_name != complete.moezoo_name
    assert run_facts(plain, toy_splits) == run_facts(complete, toy_splits)
    dense = moezoo.create_model("entity_moe/test_vit.dense")
    assert run_facts(plain, toy_splits)["model"] != run_facts(dense, toy_splits)["model"]


def test_rates_of_their_own_may_be_given_up_later(toy_splits, tmp_path):
    fit(toy(), toy_splits, config(epochs=1, layer_decay=0.5, lr_head=0.1), out=tmp_path)
    with pytest.warns(MoeZooWarning, match=r"lr_head: 0\.1 in the checkpoint, None now"):
        result = fit(toy(), toy_splits, config(epochs=2, min_lr=0.03), out=tmp_path, resume="auto")
    assert result.history[1].lr == 0.03


def test_a_test_image_that_cannot_be_read_does_not_cost_the_training(toy_splits, tmp_path):
    import dataclasses

    class Torn(ImageTensors):
        def __getitem__(self, index):
            raise UnreadableImage("images/3.png", "is empty (0 bytes)")

    torn = dataclasses.replace(toy_splits, test=Torn(toy_splits.test.images, toy_splits.test.labels))
    for settings in (config(epochs=1), config(epochs=1, num_workers=1)):
        with pytest.raises(
            UnreadableImage, match=r"^images/3\.png: is empty \(0 bytes\)\. .*00000004: repair the file"
        ):
            fit(toy(), torn, settings, out=tmp_path, resume="auto")
    whole = fit(toy(), toy_splits, config(epochs=1))
    assert fit(toy(), toy_splits, config(epochs=1), out=tmp_path, resume="auto").test == whole.test


def test_averaged_weights_may_be_asked_for_later(toy_splits, tmp_path):
    fit(toy(), toy_splits, config(epochs=1), out=tmp_path)
    with pytest.warns(MoeZooWarning, match="ema_decay"):
        fit(toy(), toy_splits, config(epochs=2, ema_decay=0.9), out=tmp_path, resume="auto")


def test_checkpoints_come_every_so_many_steps_and_only_the_newest_stay(toy_splits, tmp_path):
    fit(toy(), toy_splits, config(epochs=2, save_every=3, keep_checkpoints=3), out=tmp_path / "a")
    assert [p.name[-2:] for p in sorted((tmp_path / "a" / "checkpoints").iterdir())] == ["03", "06", "08"]
    fit(toy(), toy_splits, config(epochs=2, keep_checkpoints=0), out=tmp_path / "b")
    assert not (tmp_path / "b" / "checkpoints").exists()
