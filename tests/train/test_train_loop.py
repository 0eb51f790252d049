import dataclasses
import json
import warnings

import pytest
import torch
from torch import nn
from train_toys import Toy, config, toy, weights

import moezoo
from moezoo.data import ImageTensors
from moezoo.errors import ConfigError, MoeZooWarning, NonFiniteError, OutputError
from moezoo.eval import evaluate
from moezoo.eval.routing import LoadCounter
from moezoo.moe import Routing, RoutingRecord, set_aux_mode
from moezoo.train import fit
from moezoo.train.health import CollapseWatch
from moezoo.train.result import EpochMetrics


def test_it_learns_and_reports_every_epoch(toy_splits):
    model = toy()
    result = fit(model, toy_splits, config(epochs=12))
    assert [m.epoch for m in result.history] == list(range(1, 13))
    assert result.history[-1].loss < 0.5 * result.history[0].loss
    assert result.test.classification.top1 > 0.7
    assert result.history[-1].aux_loss > 0
    assert result.history[0].routing[0].num_experts == 4
    assert not model.training


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(toy_splits):
    runs = []
    for seed in (3, 3, 4):
        model = toy()
        torch.manual_seed(len(runs))  # the caller's generator has no say
        result = fit(model, toy_splits, config(seed=seed, epochs=2))
        runs.append((weights(model), [m.loss for m in result.history]))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1] == runs[1][1]
    assert not torch.equal(runs[0][0], runs[2][0])


def test_the_callers_generators_are_left_alone(toy_splits):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(toy(), toy_splits, config(epochs=1))
    assert torch.equal(torch.rand(3), expected)


def test_the_model_comes_back_with_the_weights_of_the_best_validation_epoch(toy_splits):
    # A learning rate this high makes later epochs worse than an earlier one.
    model = toy()
    result = fit(model, toy_splits, config(epochs=6, lr=3.0, min_lr=3.0, warmup_epochs=0, grad_clip=None))
    key = [(m.val_accuracy, -m.val_loss) for m in result.history]
    assert result.best_epoch == key.index(max(key)) + 1
    val = evaluate(model, toy_splits.val).classification
    assert (val.top1, val.loss) == (result.best.val_accuracy, pytest.approx(result.best.val_loss, rel=1e-5))
    assert evaluate(model, toy_splits.test).classification.top1 == result.test.classification.top1


def test_the_auxiliary_loss_trains_the_router(toy_splits):
    free, pressed = toy(weights={"load_balancing": 0.0}), toy(weights={"load_balancing": 10.0})
    assert fit(free, toy_splits, config(epochs=1)).history[0].aux_loss == 0
    fit(pressed, toy_splits, config(epochs=1))
    assert not torch.equal(weights(free.moe.router), weights(pressed.moe.router))


def test_losses_attached_to_the_layers_train_the_same_model(toy_splits):
    heavy = {"load_balancing": 1.0, "router_z": 0.1}
    collected, attached = toy(weights=heavy), toy(weights=heavy)
    set_aux_mode(attached, "attached")
    settings = config(epochs=2, batch_size=8, grad_accum_steps=2, lr=0.003)
    first = fit(collected, toy_splits, settings)
    second = fit(attached, toy_splits, settings)
    torch.testing.assert_close(weights(collected), weights(attached), rtol=1e-3, atol=1e-4)
    assert first.history[1].aux_loss > 0.5
    assert second.history[1].aux_loss == 0


OTHER = {
    "grad_accum_steps": 2,
    "lr_backbone": 0.001,
    "lr_moe": 0.001,
    "lr_head": 0.001,
    "layer_decay": 0.5,
    "mixup": 0.5,
    "cutmix": 0.5,
    "ema_decay": 0.9,
    "freeze_backbone": True,
    "seed": 1,
    "epochs": 3,
    "weight_decay": 0.5,
    "label_smoothing": 0.2,
    "grad_clip": 0.01,
    "lr": 0.02,
    "min_lr": 0.01,
    "warmup_epochs": 0.0,
    "batch_size": 8,
    "mixed_precision": "bf16",
}


@pytest.fixture(scope="module")
def plainly_trained(toy_splits):
    model = toy()
    fit(model, toy_splits, config(epochs=2))
    return weights(model)


@pytest.mark.parametrize("field", OTHER)
def test_every_option_changes_the_training(toy_splits, plainly_trained, field):
    model = toy()
    fit(model, toy_splits, config(**{"epochs": 2, field: OTHER[field]}))
    assert not torch.equal(weights(model), plainly_trained)


def test_worker_processes_give_the_same_training(toy_splits):
    alone, helped = toy(), toy()
    fit(alone, toy_splits, config(epochs=1))
    fit(helped, toy_splits, config(epochs=1, num_workers=1))
    assert torch.equal(weights(alone), weights(helped))


def test_the_learning_rate_warms_up_and_ends_at_its_floor(toy_splits):
    history = fit(toy(), toy_splits, config(epochs=5, lr=0.01, min_lr=1e-4, warmup_epochs=2.0)).history
    assert [round(m.lr, 4) for m in history[:2]] == [0.005, 0.01]
    assert history[-1].lr == pytest.approx(1e-4)
    assert history[2].lr > history[3].lr > history[4].lr


def test_biases_norms_and_listed_parameters_are_not_decayed():
    from moezoo.train.optim import build_optimizer

    model = toy()
    model.pos_embed = nn.Parameter(torch.zeros(1, 4, 4))
    model.no_weight_decay = lambda: {"pos_embed"}
    decayed, plain = build_optimizer(model, config()).param_groups
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decayed["params"]} >= {
        "head.weight",
        "moe.experts.w_in",
        "moe.experts.w_out",
    }
    assert {names[id(p)] for p in plain["params"]} >= {"head.bias", "moe.experts.b_in", "pos_embed"}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.05, 0.0)


class Poisoned(nn.Module):
    """Gives NaN from the given forward on."""

    def __init__(self, model, since):
        super().__init__()
        self.model, self.since, self.calls = model, since, 0

    def forward(self, images):
        self.calls += self.training
        return self.model(images) * (float("nan") if self.calls >= self.since and self.training else 1.0)


def test_a_non_finite_loss_is_refused_before_the_optimiser_sees_it(toy_splits):
    twin = toy()
    fit(twin, toy_splits, config(epochs=1, batch_size=32, grad_clip=None))  # two steps; not compared, only runs
    poisoned = Poisoned(toy(), since=6)
    with pytest.raises(NonFiniteError, match=r"epoch 2, step 2 of 4: the loss is nan.*image \d+, image \d+"):
        fit(poisoned, toy_splits, config())
    assert torch.isfinite(weights(poisoned)).all()


def test_a_non_finite_gradient_is_refused_before_the_optimiser_sees_it(toy_splits):
    model = toy()
    before = weights(model).clone()
    model.head.weight.register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(NonFiniteError, match="epoch 1, step 1 of 4: the gradient's norm"):
        fit(model, toy_splits, config())
    assert torch.equal(weights(model), before)


def test_nan_met_by_a_router_names_the_step(toy_splits):
    images = torch.full_like(toy_splits.train.images, float("nan"))
    splits = dataclasses.replace(toy_splits, train=ImageTensors(images, toy_splits.train.labels))
    with pytest.raises(NonFiniteError, match="epoch 1, step 1 of 4"):
        fit(toy(), splits, config())


def test_metrics_are_on_disk_one_line_per_epoch(toy_splits, tmp_path):
    result = fit(toy(), toy_splits, config(epochs=3), out=tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert rows[0]["routing"][0]["share"] == list(result.history[0].routing[0].share)
    assert {"loss", "aux_loss", "val_accuracy", "lr"} <= set(rows[0])
    assert {"load_entropy", "dead_experts", "max_share"} <= set(rows[0]["routing"][0])
    summary = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert summary["test"]["classification"]["top1"] == result.test.classification.top1
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == [
        "checkpoints",
        "metrics.json",
        "metrics.jsonl",
        "steps.jsonl",
    ]


def test_a_bad_output_folder_is_found_before_training(toy_splits, tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    model = toy()
    before = weights(model).clone()
    for path in (file, file / "below"):
        with pytest.raises(OutputError, match="file"):
            fit(model, toy_splits, config(), out=path)
    assert torch.equal(weights(model), before)


def test_a_device_that_is_not_there_is_an_error(toy_splits):
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="device='cuda' is not on this machine"):
            fit(toy(), toy_splits, config(device="cuda"))
    with pytest.raises(ConfigError, match="fp16"):
        fit(toy(), toy_splits, config(mixed_precision="fp16"))


def test_a_last_batch_of_one_image_does_not_break_batch_normalisation(toy_splits):
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 4))
    result = fit(model, toy_splits, config(epochs=1, batch_size=63))
    assert len(result.history) == 1
    assert moezoo.aux_loss(model.train()) == 0


def test_a_collapsed_layer_is_warned_about_once_with_a_remedy(toy_splits):
    class Collapsed(Toy):
        def __init__(self):
            super().__init__(weights={"load_balancing": 0.0, "router_z": 0.0})
            self.moe.router.register_forward_pre_hook(lambda _, args: (torch.zeros_like(args[0]),))

    with pytest.warns(MoeZooWarning, match=r"expert collapse in 'moe'.*load_balance_weight") as caught:
        fit(Collapsed(), toy_splits, config(epochs=4))
    assert len([w for w in caught if issubclass(w.category, MoeZooWarning)]) == 1


def test_a_collapse_onto_a_third_of_many_experts_is_warned_about():
    counter = LoadCounter()
    busy = torch.arange(5).repeat(20)[:, None]
    counter.add([RoutingRecord("moe", 0, Routing.from_choice(busy, torch.ones(100, 1), torch.zeros(100, 16)), None, 0)])
    watch = CollapseWatch()
    metrics = EpochMetrics(1, 0.1, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0, counter.report())
    watch.see(metrics)
    with pytest.warns(MoeZooWarning, match="11 of 16 get none"):
        watch.see(metrics)


@pytest.mark.parametrize(
    ("share", "warned"),
    [((1, 0), True), ((0.5, 0.5), False), ((1, 0, 0), True), ((0.5, 0.5, 0, 0), True), ((0.4, 0.3, 0.2, 0.1), False)],
)
def test_few_experts_collapse_too(share, warned):
    experts = torch.tensor([e for e, s in enumerate(share) for _ in range(round(10 * s))])[:, None]
    counter = LoadCounter()
    routing = Routing.from_choice(experts, torch.ones(10, 1), torch.zeros(10, len(share)))
    counter.add([RoutingRecord("moe", 0, routing, None, 0)])
    metrics = EpochMetrics(1, 0.1, 1.0, 0.0, 1.0, 1.0, 0.5, 1.0, counter.report())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        watch = CollapseWatch()
        watch.see(metrics)
        watch.see(metrics)
    assert bool(caught) == warned
