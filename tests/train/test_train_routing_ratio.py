"""Training a model with a big and a small expert: schedules, what is logged, what is warned about, what may look on."""

import dataclasses
import io
import json
import warnings

import pytest
import torch
from rich.console import Console
from routing_toys import bright_splits, routing_toy
from train_toys import SignalAt, config, weights

from moezoo.errors import ConfigError, Interrupted, MoeZooWarning
from moezoo.eval import ComputeUse, evaluate
from moezoo.eval.routing import layer_load
from moezoo.measure import flops
from moezoo.moe import set_budget, set_threshold
from moezoo.moe.modes import evaluating
from moezoo.train import EpochMetrics, VizConfig, fit
from moezoo.train.health import CollapseWatch
from moezoo.train.parts import _cost
from moezoo.train.progress import ProgressBar, Silent
from moezoo.train.schedule import Schedule


@pytest.fixture(scope="module")
def splits():
    return bright_splits()


def lines(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


class Seen(Silent):
    """What the layer was told at each step."""

    def __init__(self, model):
        self.model, self.progress, self.uses = model, [], []

    def step(self, loss, routing=(), use=None):
        router = self.model.moe.router
        self.progress.append((router.progress, self.model.moe.aux.progress, router.slope_temperature))
        self.uses.append(use)


def test_a_step_logs_the_ratio_and_the_flops_of_its_own_routing(splits, tmp_path):
    model = routing_toy()
    images = splits.train.images
    with evaluating(model):
        chosen = (model.scores(images) >= model.moe.router.threshold).double().mean().item()
    cost = flops(model, images).analytic / len(images)
    # One step of all images, before which nothing was learned.
    fit(model, splits, config(epochs=1, batch_size=48, log_every=1, warmup_epochs=0.0), out=tmp_path)
    (step,) = lines(tmp_path, "steps.jsonl")
    assert 0 < chosen < 1
    assert step["routing_ratio"] == pytest.approx(chosen)
    assert step["flops_per_image"] == pytest.approx(cost, rel=1e-12)


def test_an_epoch_logs_the_mean_of_its_steps_and_what_validation_used(splits, tmp_path):
    model, looked = routing_toy(), []

    def look(model, splits, metrics):
        assert model.moe.router.progress == 1  # validated as the model will be when it is loaded
        torch.rand(3)  # nothing that is drawn here changes the run
        budget = evaluate(model, splits.val).budget
        looked.append((metrics.val_routing_ratio, metrics.val_flops_per_image))
        assert looked[-1] == pytest.approx((budget.ratio.mean, budget.flops_per_image.mean))

    # Three steps an epoch, the last one smaller.
    settings = config(epochs=2, batch_size=20, lr=0.002, log_every=2, ema_decay=0.5, tensorboard=True)
    observer = Seen(model)
    result = fit(model, splits, settings, out=tmp_path, observer=observer, on_epoch=look)
    uses = [use.routing_ratio for use in observer.uses]
    first = (20 * uses[0] + 20 * uses[1] + 8 * uses[2]) / 48
    assert result.history[0].routing_ratio == pytest.approx(first)
    assert len(looked) == 2
    rows = lines(tmp_path, "metrics.jsonl")
    assert [row["routing_ratio"] for row in rows] == [metrics.routing_ratio for metrics in result.history]
    assert rows[1]["val_flops_per_image"] == looked[1][1]
    assert EpochMetrics.from_dict(rows[1]) == result.history[1]
    assert len(lines(tmp_path, "steps.jsonl")) == 3  # the ratio is of every step, the log is not
    assert result.test.budget == evaluate(model, splits.test).budget
    assert json.loads((tmp_path / "metrics.json").read_text())["test"]["budget"]["images"] == 24
    other, old = routing_toy(), tmp_path / "visualizations" / "attention_epoch_009.png"
    old.parent.mkdir()
    old.touch()
    fit(other, splits, dataclasses.replace(settings, tensorboard=False), out=tmp_path, overwrite=True)
    assert torch.equal(weights(model), weights(other))
    assert not old.exists()  # a picture of the run that was dropped


def test_the_schedules_follow_the_whole_run_also_when_it_is_resumed(splits, tmp_path):
    made = {"anneal": 0.5, "temperature": 1.0, "temperature_final": 0.25, "mode": "sigmoid_gate"}
    settings = config(epochs=3, batch_size=16, lr=0.002, save_every=2)
    whole, seen = routing_toy(**made), None
    seen = Seen(whole)
    fit(whole, splits, settings, out=tmp_path / "whole", observer=seen)
    told = [progress for progress, _, _ in seen.progress]
    assert told == pytest.approx([i / 8 for i in range(9)])
    assert all(progress == aux for progress, aux, _ in seen.progress)
    assert [t for _, _, t in seen.progress] == pytest.approx([0.25 ** (i / 8) for i in range(9)])
    assert (whole.moe.router.progress, whole.moe.aux.progress) == (1, 1)
    for stop in (2, 5):
        with pytest.raises(Interrupted):
            fit(routing_toy(**made), splits, settings, out=tmp_path / "cut", resume="auto", observer=SignalAt(stop))
    resumed = routing_toy(**made)
    fit(resumed, splits, settings, out=tmp_path / "cut", resume="auto")
    assert torch.equal(weights(whole), weights(resumed))
    for name in ("steps.jsonl", "metrics.jsonl"):
        one, two = ([{**row, "seconds": 0} for row in lines(tmp_path / run, name)] for run in ("whole", "cut"))
        assert one == two
    assert Schedule(0, 1, 0.0).progress(1) == 0


def test_for_a_model_without_the_choice_nothing_is_run_or_read(splits):
    assert _cost(torch.nn.Linear(2, 2), None, None) is None


def epoch(share):
    return EpochMetrics(
        2, 0.1, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0, (layer_load("moe", 100, [share * 100, 100 - share * 100], 0),)
    )


@pytest.mark.parametrize(
    ("share", "made", "progress", "says"),
    [
        (0.05, {}, 1.0, None),  # uneven is the purpose
        (0.0, {}, 1.0, "sits at 0% at epoch 2: no token.*budget_target.*threshold_init.*temperature"),
        (1.0, {}, 1.0, "sits at 100% .*every token goes to the big expert"),
        (1.0, {"anneal": 0.5}, 0.3, None),  # the target is still coming down
        (1.0, {"anneal": 0.5}, 0.6, "every token"),
        (1.0, {"mode": "top_fraction", "fraction": 1.0}, 1.0, None),  # asked for
        (1.0, {"target": 1.0}, 1.0, None),
    ],
)
def test_a_ratio_that_sits_at_an_end_is_warned_about_once(share, made, progress, says):
    watch = CollapseWatch(routing_toy(**made))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch.see(epoch(share), progress)
        assert not caught
        for _ in range(2):
            watch.see(epoch(share), progress)
    assert len(caught) == (says is not None)
    if says:
        with pytest.warns(MoeZooWarning, match=says):
            warnings.warn(caught[0].message, stacklevel=1)


@pytest.mark.parametrize("turn", [lambda model: set_budget(model, 1.0), lambda model: set_threshold(model, 0.01)])
def test_a_dial_that_was_turned_is_not_warned_about(turn):
    model = routing_toy()
    turn(model)
    watch = CollapseWatch(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            watch.see(epoch(1.0))


def test_the_line_says_the_ratio_and_the_flops_in_place_of_the_load():
    file = io.StringIO()
    bar = ProgressBar("MoE", Console(file=file, width=80, force_terminal=True, color_system=None))
    bar.start(20, 3, done=30)
    bar.step(0.5, (layer_load("a", 8, [8, 0], 0),), ComputeUse(0.274, 1.234e6))
    one = EpochMetrics(11, 1e-3, 0.25, 0.0, 1.0, 0.5, 0.989, 1.0, ())
    bar.epoch(one, one)
    bar.stop()
    last = next(line for line in reversed(file.getvalue().splitlines()) if "MoE" in line)
    assert "epoch 11/20  loss 0.250  val 98.9%  best 98.9%  big 27% 1.23 MFLOPs" in last
    file = io.StringIO()
    bar = ProgressBar("MoE", Console(file=file, width=80))
    bar.start(1, 1)
    two = dataclasses.replace(one, epoch=1, routing_ratio=0.5, flops_per_image=999.0)
    bar.epoch(two, two)
    assert "big 50% 999 FLOPs" in file.getvalue()


def test_pictures_every_few_epochs_are_a_setting():
    assert VizConfig().every == 0
    with pytest.raises(ConfigError, match="every=-1"):
        VizConfig(every=-1)
