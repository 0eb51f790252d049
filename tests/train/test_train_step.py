"""The optimiser step alone: what its gradient is, under accumulation, a gradient scaler and attached losses."""

import contextlib
import math
import types

import pytest
import torch
from torch.nn import functional as F
from train_toys import config, toy, weights

import moezoo
from moezoo.moe import set_aux_mode
from moezoo.train.batches import Batch
from moezoo.train.health import RoutingMeter
from moezoo.train.modes import run_modes
from moezoo.train.parallel import Parallel
from moezoo.train.standing import Standing
from moezoo.train.step import Stepper
from moezoo.train.tasks.classify import Classification, Labelled

AUX = {"load_balancing": 0.5, "router_z": 0.1}


def batches(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(n, 1, 2, 2, generator=generator) for n in sizes]
    return [Batch(Labelled(each, torch.arange(len(each)) % 4), list(range(len(each))), []) for each in images]


@contextlib.contextmanager
def stepper(model, task=None, **changes):
    device = torch.device("cpu")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer.step = lambda: None  # the gradients stay as the optimiser got them
    meter = RoutingMeter(model, device)
    parallel = Parallel(types.SimpleNamespace(), device)
    with run_modes(model, types.SimpleNamespace(deterministic=False, grad_checkpointing=False, freeze_backbone=False)):
        classes = types.SimpleNamespace(label_names="abcd", num_classes=4)
        task = task or Classification(model, classes, config(label_smoothing=0.0))
        yield Stepper(model, model, task, optimizer, parallel, meter, contextlib.nullcontext, **changes)
    meter.close()


def gradients(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def expected(model, groups):
    """The mean over the micro-batches of the gradient of the loss anyone would write."""
    model.zero_grad()
    for batch in groups:
        loss = F.cross_entropy(model(batch.content.images), batch.content.labels) + moezoo.aux_loss(model)
        (loss / len(groups)).backward()
    return gradients(model)


def model(mode="collected"):
    made = toy(weights=AUX).train()
    made.drop.p = 0.0
    set_aux_mode(made, mode)
    return made


@pytest.mark.parametrize("sizes", [(8,), (8, 8, 8), (8, 3)])
@pytest.mark.parametrize("mode", ["collected", "attached"])
@pytest.mark.parametrize("scale", [None, 2.0**10])
def test_the_gradient_is_the_mean_of_the_micro_batches(sizes, mode, scale):
    groups = batches(*sizes)
    want = expected(model(), groups)
    made = model(mode)
    scaler = None if scale is None else torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    with stepper(made, scaler=scaler) as step:
        if scaler is not None:  # as the scaler would: it calls what was replaced
            scaler.step = lambda optimizer: None
            scaler.update = lambda: None
        values = step(groups, measure=True)
    torch.testing.assert_close(gradients(made), want, rtol=1e-5, atol=1e-7)
    assert values.updated
    assert values.grad_norm == pytest.approx(float(want.norm()), rel=1e-5)
    assert values.images == sum(sizes)
    assert values.aux_loss > 0 if mode == "collected" else values.aux_loss == 0
    (load,) = values.routing
    assert load.tokens == sum(sizes)


def test_a_balance_loss_has_its_weight_under_a_scaler_in_both_modes():
    """The routers' gradient would be a thousandth of what it should be if the scale passed the attached loss by."""
    routers = []
    for mode in ("collected", "attached"):
        made = model(mode)
        free = expected(toy(weights={}).train(), batches(8))
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
        with stepper(made, scaler=scaler) as step:
            scaler.step = lambda optimizer: None
            step(batches(8))
        routers.append(torch.cat([p.grad.flatten() for p in made.moe.router.parameters()]))
        assert not torch.allclose(gradients(made), free)
    torch.testing.assert_close(routers[0], routers[1])


def test_a_scaler_skips_an_infinite_gradient_and_lowers_its_scale():
    made = model()
    before = weights(made).clone()
    made.head.weight.register_hook(lambda grad: grad * float("inf"))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, backoff_factor=0.25)
    with stepper(made, scaler=scaler) as step:
        values = step(batches(8))
        assert (values.updated, values.trouble, values.grad_norm) == (False, "", 0.0)
        standing = Standing()
        standing.add(values, 8, 0.1, 1.0)
        assert (standing.step, standing.position, standing.images) == (1, 8, 0)  # no part of the epoch's means
        assert scaler.get_scale() == 1.0
        assert "the gradient's norm" in step(batches(8)).trouble  # there is no scale left to lower
    assert torch.equal(weights(made), before)


def test_the_factor_of_attached_losses_is_the_users_again_after_the_run():
    made = model("attached")
    made.moe.aux.scale = 0.5
    with stepper(made) as step:
        step(batches(4, 4))
        assert made.moe.aux.scale == 0.5 / 1  # of two micro-batches
    assert made.moe.aux.scale == 0.5


def test_a_refused_step_leaves_no_trace_in_statistics_and_counts():
    made = toy(router="sigmoid_bias", top_k=2).train()
    made.head = torch.nn.Sequential(torch.nn.BatchNorm1d(4), made.head)
    buffers = {name: b.clone() for name, b in made.named_buffers()}
    poisoned = Batch(Labelled(torch.full((8, 1, 2, 2), math.nan), torch.arange(8) % 4), list(range(8)), [])
    with stepper(made, keep_buffers=True) as step:
        values = step([poisoned], measure=True)
    assert "the loss is nan" in values.trouble
    assert all(torch.equal(b, buffers[name]) for name, b in made.named_buffers())
    assert made.moe.router.tally.sum() == 0
    assert all(p.grad is None for p in made.parameters())


def test_routing_is_counted_only_where_there_are_images():
    made = model()
    meter = RoutingMeter(made, torch.device("cpu"))
    meter.start()
    with meter.counting_if(False):  # as blank images that stand in for none are run
        made(torch.zeros(2, 1, 2, 2))
    with meter.counting_if(True):
        made(torch.zeros(3, 1, 2, 2))
    assert meter.loads(meter.counts().tolist())[0].tokens == 3
    made(torch.zeros(3, 1, 2, 2))
    assert meter.counts().sum() == 3 + 3  # closed: the assignments and tokens of before
    meter.close()


def test_without_an_image_there_is_no_step():
    with stepper(model()) as step:
        assert step([]).updated is False
