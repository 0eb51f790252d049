"""What each option of a run does, beyond changing it."""

import builtins
import dataclasses
import json
import logging
import os

import numpy as np
import pytest
import torch
from torch import nn
from train_toys import SignalAt, Toy, config, toy, weights

import moezoo
from moezoo.data import ImageTensors
from moezoo.data.skipped import Skipped
from moezoo.errors import ConfigError, DataError, InputError, Interrupted, MissingPackageError
from moezoo.train import TrainingConfig, fit, seeded
from moezoo.train.augment import Mixer
from moezoo.train.batches import EpochBatches
from moezoo.train.ema import KeptWeights, warmed_up
from moezoo.train.modes import run_modes
from moezoo.train.optim import build_optimizer
from moezoo.train.parallel import process_group_settings
from moezoo.train.schedule import build_schedule


def rates(model, **changes):
    """The peak rate of every parameter by name, and whether it decays."""
    optimizer = build_optimizer(model, config(lr=1.0, **changes))
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_roles_and_blocks_have_rates_of_their_own():
    made = rates(toy(), lr_backbone=0.1, lr_moe=0.2, lr_head=0.3)
    assert (made["stem.weight"], made["stem.bias"]) == ((0.1, 0.05), (0.1, 0.0))
    assert (made["moe.experts.w_in"], made["moe.experts.b_in"]) == ((0.2, 0.05), (0.2, 0.0))
    assert made["head.weight"] == (0.3, 0.05)
    model = moezoo.create_model("entity_moe/digits")  # four blocks, adapters behind the last ones
    made = {name: lr for name, (lr, _) in rates(model, layer_decay=0.5).items()}
    blocks = len(model.blocks)
    assert made["head.weight"] == 1.0
    assert [made[f"blocks.{i}.attn.qkv.weight"] for i in range(blocks)] == [0.5 ** (blocks - i) for i in range(blocks)]
    assert made["pos_embed"] == 0.5 ** (blocks + 1)
    adapters = {name: lr for name, lr in made.items() if "entity_moe" in name}
    assert adapters
    assert all(lr == made[f"blocks.{name.split('.')[1]}.attn.qkv.weight"] for name, lr in adapters.items())
    normed = rates(moezoo.create_model("entity_moe/digits", expert="residual_mlp"))
    stacked = {name.rpartition(".")[2]: decay for name, (_, decay) in normed.items() if ".experts." in name}
    assert {leaf for leaf, decay in stacked.items() if decay} == {"w_in", "w_out", "w_res"}
    assert stacked["norm1_weight"] == stacked["norm2_bias"] == stacked["b_in"] == 0.0
    with pytest.raises(ConfigError, match=r"layer_decay=0\.5 has no effect"):
        rates(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), layer_decay=0.5)


def test_all_groups_warm_up_and_end_in_the_same_proportion():
    optimizer = build_optimizer(toy(), config(lr=1.0, lr_head=0.1))
    schedule = build_schedule(config(lr=1.0, min_lr=0.01, epochs=3, warmup_epochs=1.0), steps_per_epoch=4)
    seen = []
    for step in range(1, 13):
        assert schedule.apply(optimizer, step) == max(g["lr"] for g in optimizer.param_groups)
        assert all(g["lr"] / g["peak_lr"] == pytest.approx(schedule.factor(step)) for g in optimizer.param_groups)
        seen.append(schedule.factor(step))
    assert seen[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert seen[-1] == pytest.approx(0.01)
    assert seen[4:] == sorted(seen[4:], reverse=True)


def test_accumulation_counts_steps_by_the_optimiser(toy_splits, tmp_path):
    fit(toy(), toy_splits, config(epochs=2, batch_size=8, grad_accum_steps=3), out=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [(row["step"], row["epoch"], row["images"]) for row in rows] == [
        (1, 1, 24), (2, 1, 24), (3, 1, 16), (4, 2, 24), (5, 2, 24), (6, 2, 16)
    ]  # fmt: skip
    peak = 0.03
    assert [row["lr"] for row in rows[:3]] == pytest.approx([peak / 3, peak * 2 / 3, peak])


def test_a_frozen_backbone_stays_as_it_was_statistics_included(toy_splits):
    class Normed(Toy):
        def __init__(self):
            super().__init__()
            self.stem = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))

    with seeded(0):
        model = Normed()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    fit(model, toy_splits, config(epochs=1, freeze_backbone=True))
    after = model.state_dict()
    assert {name for name in after if not torch.equal(after[name], before[name])} == {
        name for name in after if not name.startswith("stem")
    }
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="no parameter of the model is trainable"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(4, 4)), toy_splits, config(freeze_backbone=True))


def test_averaged_weights_are_validated_and_kept(toy_splits):
    model, averaged = toy(), toy()
    plain = fit(model, toy_splits, config(epochs=2))
    result = fit(averaged, toy_splits, config(epochs=2, ema_decay=0.8))
    assert [m.loss for m in result.history] == [m.loss for m in plain.history]  # what is trained is the same
    assert [m.val_loss for m in result.history] != [m.val_loss for m in plain.history]
    assert not torch.equal(weights(averaged), weights(model))
    layer = nn.BatchNorm1d(2)
    kept = KeptWeights(layer)
    with torch.no_grad():
        layer.weight.fill_(3.0)
    layer.num_batches_tracked += 4
    kept.average(0.75)
    with kept.in_place():
        assert layer.weight.tolist() == [1.5, 1.5]
        assert layer.num_batches_tracked == 4
    assert layer.weight.tolist() == [3.0, 3.0]
    assert (warmed_up(0.999, 0), warmed_up(0.999, 10**6)) == (0.1, 0.999)


def test_it_stops_when_validation_gets_no_better(toy_splits, caplog):
    with caplog.at_level(logging.INFO, "moezoo"):
        settings = config(epochs=20, lr=3.0, min_lr=3.0, warmup_epochs=0, grad_clip=None, early_stopping=2)
        result = fit(toy(), toy_splits, settings)
    assert len(result.history) == result.best_epoch + 2 < 20
    assert "no better validation in 2 epochs" in caplog.text


def test_mixing_keeps_targets_a_distribution_and_takes_odd_batches():
    labels = torch.tensor([0, 1, 2, 3, 0])
    images = torch.arange(5.0)[:, None, None, None].expand(5, 1, 4, 4).clone()
    np.random.seed(0)
    for mixer in (Mixer(config(mixup=0.5), 4), Mixer(config(cutmix=0.5, label_smoothing=0.1), 4)):
        mixed, targets = mixer(images.clone(), labels)
        torch.testing.assert_close(targets.sum(-1), torch.ones(5))
        assert mixed.shape == images.shape
        assert torch.equal(mixed[4], images[4])
        assert not torch.equal(mixed[:4], images[:4])
        assert mixer(images[:1].clone(), labels[:1])[1].argmax() == 0


def test_checkpointed_activations_give_the_same_training_and_the_same_counts(tmp_path):
    splits = moezoo.data.load_dataset("digits", input_size=(1, 16, 16))
    splits = dataclasses.replace(
        splits, **{p: torch.utils.data.Subset(getattr(splits, p), range(24)) for p in ("train", "val", "test")}
    )
    runs = []
    for checkpointing in (False, True):
        with seeded(0):
            model = moezoo.create_model("entity_moe/digits", inject_layers="all")
        calls = []
        model.blocks[0].mlp.fc1.register_forward_hook(lambda m, *_, calls=calls: calls.extend([1] * m.training))
        settings = config(epochs=1, batch_size=12, lr=1e-3, grad_checkpointing=checkpointing)
        fit(model, splits, settings, out=tmp_path / str(checkpointing))
        rows = [json.loads(line) for line in (tmp_path / str(checkpointing) / "steps.jsonl").read_text().splitlines()]
        runs.append((len(calls), weights(model), [(row["aux_loss"], row["routing"]) for row in rows]))
        assert not model.grad_checkpointing
    assert (runs[0][0], runs[1][0]) == (2, 4)
    torch.testing.assert_close(runs[0][1], runs[1][1], rtol=1e-5, atol=1e-6)
    assert runs[0][2][0] == runs[1][2][0]
    with pytest.raises(ConfigError, match="set_grad_checkpointing"):
        fit(toy(), splits, config(grad_checkpointing=True))


def test_deterministic_mode_is_on_in_the_run_and_off_after_it(toy_splits, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    seen = []

    class Watched(Toy):
        def forward(self, images):
            cudnn = torch.backends.cudnn
            seen.append((torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark))
            seen.append(os.environ["CUBLAS_WORKSPACE_CONFIG"])
            return super().forward(images)

    fit(Watched(), toy_splits, config(epochs=1, deterministic=True))
    assert set(seen) == {(True, True, False), ":4096:8"}
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    assert not torch.backends.cudnn.deterministic


def test_every_step_says_how_the_experts_fare(toy_splits, tmp_path):
    seen = []

    class Watch(SignalAt):
        def step(self, loss, routing=(), use=None):
            seen.append(routing)

    model = toy(capacity_factor=0.5)
    fit(model, toy_splits, config(epochs=1, log_every=2), out=tmp_path, observer=Watch(-1))
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    (layer,) = rows[0]["routing"]
    assert layer["layer"] == "moe"
    assert 0 <= layer["load_entropy"] <= 1
    assert layer["min_share"] <= 0.25 <= layer["max_share"] < 1
    assert layer["max_violation"] == pytest.approx(4 * layer["max_share"] - 1)
    assert layer["drop_rate"] > 0
    assert isinstance(layer["dead_experts"], list)
    assert [len(routing) for routing in seen] == [0, 1, 0, 1]
    assert all(rows[0][key] is not None for key in ("lr", "loss", "aux_loss", "grad_norm", "seconds", "updated"))
    assert not model.moe.router._forward_hooks


def test_tensorboard_gets_the_same_numbers_or_says_what_to_install(toy_splits, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(toy(), toy_splits, config(epochs=1, tensorboard=True), out=tmp_path / "run")
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    rows = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3, 4]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([row["loss"] for row in rows])
    entropies = [row["routing"][0]["load_entropy"] for row in rows]
    assert [e.value for e in events.Scalars("routing/moe/load_entropy")] == pytest.approx(entropies)

    real = builtins.__import__
    missing = lambda name, *rest: _missing() if "tensorboard" in name else real(name, *rest)  # noqa: E731
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingPackageError, match=r"moezoo\[tensorboard\]"):
        fit(toy(), toy_splits, config(epochs=1, tensorboard=True), out=tmp_path / "other")


def _missing():
    raise ImportError


class Holey(ImageTensors):
    """Some files of it cannot be read."""

    bad = (3, 17)

    def __getitem__(self, index):
        return Skipped(f"images/{index}.png", "is empty (0 bytes)") if index in self.bad else super().__getitem__(index)


def test_unreadable_training_files_are_left_out_listed_once_and_limited(toy_splits, tmp_path, caplog):
    train = Holey(toy_splits.train.images, toy_splits.train.labels)
    splits = dataclasses.replace(toy_splits, train=train)
    with caplog.at_level(logging.WARNING, "moezoo"):
        result = fit(toy(), splits, config(epochs=2, batch_size=1, lr=1e-3), out=tmp_path / "run")
    assert json.loads((tmp_path / "run" / "bad_files.json").read_text()) == [
        {"path": f"images/{i}.png", "reason": "is empty (0 bytes)"} for i in (17, 3)
    ]
    assert caplog.text.count("images/3.png is empty") == 1
    rows = [json.loads(line) for line in (tmp_path / "run" / "steps.jsonl").read_text().splitlines()]
    assert sum(row["images"] for row in rows) == 2 * 62
    assert sum(not row["updated"] for row in rows) == 4  # steps that had no image at all
    assert len(result.history) == 2
    with pytest.raises(DataError, match=r"more than max_bad_files=1: images/"):
        fit(toy(), splits, config(epochs=1, max_bad_files=1, num_workers=1))


def test_the_order_of_images_depends_on_neither_processes_nor_where_it_begins():
    def read(**changes):
        batches = EpochBatches(21, **{"batch_size": 4, "seed": 3, **changes})
        batches.start(2, changes.pop("position", 0))
        return [[key.image for key in batch] for batch in batches]

    whole = read()
    assert sorted(i for batch in whole for i in batch) == list(range(21))
    ranks = [read(batch_size=2, rank=r, world=2) for r in (0, 1)]
    assert [a + b for a, b in zip(*ranks, strict=True)] == whole
    assert len(ranks[0]) == len(ranks[1]) == 6
    other = EpochBatches(21, 4, seed=3)
    other.start(2, 8)
    assert [[key.image for key in batch] for batch in other] == whole[2:]
    assert read(seed=4) != whole
    assert len(read(least=2)[-1]) == 4  # the single last image is left out
    assert [len(b) for b in EpochBatches(1, 4, seed=0, least=2)] == [1]


def test_an_error_of_the_data_set_names_the_image(toy_splits):
    class Broken(ImageTensors):
        def __getitem__(self, index):
            return {}["absent"] if index == 5 else super().__getitem__(index)

    names = [f"pictures/{i}.jpg" for i in range(64)]
    splits = dataclasses.replace(
        toy_splits, train=Broken(toy_splits.train.images, toy_splits.train.labels, names=names)
    )
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"^image 5 \(pictures/5\.jpg\).*KeyError: 'absent'$"):
            fit(toy(), splits, config(num_workers=workers))


def test_a_label_that_no_class_has_is_named_and_an_empty_part_too(toy_splits):
    labels = toy_splits.train.labels.clone()
    labels[9] = 4
    splits = dataclasses.replace(toy_splits, train=ImageTensors(toy_splits.train.images, labels))
    with pytest.raises(DataError, match=r"image 9 of the training data has the label 4; labels go from 0 to 3"):
        fit(toy(), splits, config())
    empty = dataclasses.replace(toy_splits, train=ImageTensors(torch.zeros(0, 1, 2, 2), labels[:0]))
    with pytest.raises(InputError, match="training part"):
        fit(toy(), empty, config())


def test_a_model_that_answers_with_something_else_than_logits_is_named(toy_splits):
    class Mapped(Toy):
        def forward(self, images):
            return {"scores": super().forward(images)}

    with pytest.raises(InputError, match=r"Mapped must answer 16 images with \(images, classes\) logits.*of scores"):
        fit(Mapped(), toy_splits, config())


def test_processes_wait_for_one_another_as_long_as_they_are_told():
    assert process_group_settings(config(dist_timeout=7.5)).timeout.total_seconds() == 7.5


def test_settings_that_exclude_each_other_are_refused():
    for changes in ({"parallel": "fsdp"}, {"expert_parallel": 2}):
        with pytest.raises(ConfigError, match="fp16"):
            TrainingConfig(mixed_precision="fp16", **changes)


def test_what_a_run_changes_about_a_model_is_undone_when_it_fails(toy_splits):
    model = toy()
    with run_modes(model, config(freeze_backbone=True)):
        assert not model.moe.router.refuses_nonfinite
        assert not model.stem.weight.requires_grad
    assert model.moe.router.refuses_nonfinite
    assert model.stem.weight.requires_grad
    with pytest.raises(Interrupted):
        fit(model, toy_splits, config(), observer=SignalAt(1))
    assert not model.moe.router._forward_hooks
