"""Attached auxiliary losses: the gradient of ``task + aux_loss(model)`` in loops that know the first alone."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, aux_loss, set_aux_mode, set_aux_scale
from moezoo.moe.aux import mark_root, silence
from moezoo.moe.losses import router_z_loss
from moezoo.moe.routers import SoftmaxTopKRouter

WEIGHTS = {"load_balancing": 0.5, "router_z": 0.3, "importance": 0.2}
"""Large enough for a missing or doubled gradient to show."""


class Net(nn.Module):
    """Residual MoE layers; ``reentrant`` says how they are checkpointed, if at all."""

    def __init__(self, layers=3, reentrant=None, **args):
        super().__init__()
        args = {"num_experts": 4, "top_k": 2, "hidden_dim": 6, "aux_weights": WEIGHTS, **args}
        self.layers = nn.ModuleList(MoELayer(8, **args) for _ in range(layers))
        self.reentrant = reentrant

    def forward(self, x):
        for layer in self.layers:
            x = x + (layer(x) if self.reentrant is None else checkpoint(layer, x, use_reentrant=self.reentrant))
        return x


def pair(dtype=torch.float64, reentrant=None, **args):
    """The same net twice: collected without checkpointing, and attached."""
    collected = Net(**args).to(dtype)
    attached = Net(reentrant=reentrant, **args).to(dtype)
    attached.load_state_dict(collected.state_dict())
    set_aux_mode(attached, "attached")
    return collected, attached


def grads(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters()]


def assert_equal(ours, theirs, tolerance=1e-12):
    assert any(g.abs().max() > 1e-3 for g in theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def tokens(requires_grad=True):
    return torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=requires_grad)


CASES = [
    {},
    {"num_shared_experts": 1},
    {"router_args": {"noise_std": 1.0}},
    {"path": "grouped"},
    {"capacity_factor": 0.5},
    {"expert": "glu", "top_k": 1},
    {"aux_weights": {"load": 0.4, "kl_balance": 0.3, "local_entropy": 0.1, "load_variance": 2.0, "prob_sq": 0.0}},
]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize("reentrant", [None, False, True])
@pytest.mark.parametrize("args", CASES)
def test_the_gradients_are_those_of_the_collected_loss_under_either_checkpointing(args, reentrant, marked):
    collected, attached = pair(reentrant=reentrant, **args)
    if marked:
        mark_root(collected)
        mark_root(attached)
    x = tokens()
    for _ in range(2):
        torch.manual_seed(1)
        y = collected(x)
        expected = grads(collected, y.square().mean() + aux_loss(collected))
        expected_x, x.grad = x.grad, None
        torch.manual_seed(1)
        ours = attached(x)
        assert torch.equal(ours, y)
        assert_equal(grads(attached, ours.square().mean()), expected)
        torch.testing.assert_close(x.grad, expected_x, rtol=1e-12, atol=1e-12)
        x.grad = None


def test_without_the_loss_the_gradients_differ():
    collected, attached = pair()
    x = tokens()
    task_only = grads(collected, collected(x).square().mean())
    assert not torch.allclose(grads(attached, attached(x).square().mean())[0], task_only[0], rtol=1e-3)


def test_a_plain_training_loop_reaches_the_same_weights():
    collected, attached = pair()
    batches = [tokens() for _ in range(4)]
    for model in (collected, attached):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        for x in batches:
            optimizer.zero_grad()
            loss = model(x).square().mean()
            if model is collected:
                loss = loss + aux_loss(model)
            loss.backward()
            optimizer.step()
    assert_equal(list(attached.parameters()), list(collected.parameters()), 1e-9)


@pytest.mark.parametrize("reentrant", [None, True])
def test_accumulation_needs_its_divisor_as_the_scale(reentrant):
    collected, attached = pair(reentrant=reentrant)
    batches = [tokens() for _ in range(3)]
    for x in batches:
        ((collected(x).square().mean() + aux_loss(collected)) / 3).backward()
    set_aux_scale(attached, 1 / 3)
    for x in batches:
        (attached(x).square().mean() / 3).backward()
    assert_equal([p.grad for p in attached.parameters()], [p.grad for p in collected.parameters()])


def test_a_function_as_scale_follows_a_gradient_scaler_that_changes():
    collected, attached = pair(dtype=torch.float32)
    x = tokens().float().detach()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1)
    set_aux_scale(attached, scaler.get_scale)
    optimizer = torch.optim.SGD(attached.parameters(), lr=0.0)
    expected = grads(collected, collected(x).square().mean() + aux_loss(collected))
    scales = []
    for _ in range(3):
        optimizer.zero_grad()
        scaler.scale(attached(x).square().mean()).backward()
        scales.append(scaler.get_scale())
        scaler.unscale_(optimizer)
        assert_equal([p.grad for p in attached.parameters()], expected, 1e-5)
        scaler.step(optimizer)
        scaler.update()
    assert scales == [4.0, 8.0, 16.0]


@pytest.mark.parametrize("reentrant", [None, False, True])
def test_autocast_in_half_precision_gives_the_collected_gradients(reentrant):
    collected, attached = pair(dtype=torch.float32, reentrant=reentrant)
    x = tokens().float().detach().requires_grad_()
    results = []
    for model in (collected, attached):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(x).float().square().mean()
        results.append(grads(model, loss + aux_loss(model)))
    assert_equal(results[1], results[0], 1e-2)


def test_a_compiled_model_is_compiled_whole_and_follows_the_scale():
    torch._dynamo.reset()
    collected, attached = pair(dtype=torch.float32)
    x = tokens().float().detach()
    compiled = torch.compile(attached, fullgraph=True, backend="aot_eager")
    for scale in (1.0, 2.0, 0.5, 8.0):
        set_aux_scale(attached, scale)
        expected = grads(collected, collected(x).square().mean() + scale * aux_loss(collected))
        assert_equal(grads(attached, compiled(x).square().mean()), expected, 1e-5)


def test_the_loss_to_add_is_zero_so_that_nothing_counts_twice():
    _, attached = pair()
    x = tokens()
    once = grads(attached, attached(x).square().mean())
    y = attached(x)
    assert aux_loss(attached).item() == 0
    assert_equal(grads(attached, y.square().mean() + aux_loss(attached)), once)


def test_evaluation_and_no_grad_attach_nothing():
    _, attached = pair()
    x = tokens()
    attached.eval()
    plain = grads(attached, attached(x).square().mean())
    set_aux_mode(attached, "collected")
    assert_equal(grads(attached, attached(x).square().mean()), plain)
    set_aux_mode(attached.train(), "attached")
    with torch.no_grad():
        assert not attached(x).requires_grad


def test_the_output_may_be_changed_in_place():
    collected, attached = pair(layers=1)
    x = tokens()
    expected = grads(collected, collected.layers[0](x).relu().sum() + aux_loss(collected))
    assert_equal(grads(attached, attached.layers[0](x).relu_().sum()), expected)


def test_a_layer_alone_takes_itself_for_the_only_one():
    layer = MoELayer(8, num_experts=4, aux_weights={"router_z": 0.5}, aux_loss="attached").double()
    x = tokens(requires_grad=False)
    seen = []
    handle = layer.router.register_forward_hook(lambda _m, _a, routing: seen.append(routing))
    layer(x)
    handle.remove()
    (expected,) = torch.autograd.grad(0.5 * router_z_loss(seen[0]), layer.router.weight)
    (grad,) = torch.autograd.grad(0 * layer(x).sum(), layer.router.weight)
    torch.testing.assert_close(grad, expected, rtol=1e-12, atol=1e-12)


def test_a_layer_called_twice_counts_each_call():
    layer = MoELayer(8, num_experts=4, aux_weights=WEIGHTS).double()
    x, z = tokens(), tokens()
    expected = []
    for batch in (x, z):
        layer(batch)
        expected += torch.autograd.grad(aux_loss(layer), layer.router.weight)
    set_aux_mode(layer, "attached")
    (grad,) = torch.autograd.grad(0 * (layer(x) + layer(z)).sum(), layer.router.weight)
    torch.testing.assert_close(grad, expected[0] + expected[1])


def test_layers_are_counted_per_kind():
    collected, attached = pair()
    for model in (collected, attached):
        model.layers[0].aux.weights = {"importance": 1.0, "router_z": 0.0}
        model.layers[1].aux.weights = {}
    set_aux_mode(attached, "attached")
    x = tokens()
    expected = grads(collected, collected(x).square().mean() + aux_loss(collected))
    assert_equal(grads(attached, attached(x).square().mean()), expected)


class Penalised(SoftmaxTopKRouter):
    def route(self, x_TD):
        routing = super().route(x_TD)
        return dataclasses.replace(routing, penalty=0.5 * routing.logits.square().mean())


@pytest.mark.parametrize("layers", [1, 3])
def test_a_routers_own_penalty_is_one_more_kind_averaged_over_all_calls(layers):
    collected, attached = pair(layers=layers)
    for model in (collected, attached):
        torch.manual_seed(2)
        model.layers[0].router = Penalised(8, 4, top_k=2).double()
    x = tokens()
    seen = []
    collected.layers[0].router.register_forward_hook(lambda _m, _a, routing: seen.append(routing))
    y = collected(x)
    with_penalty = aux_loss(collected)
    expected = grads(collected, y.square().mean() + with_penalty)
    assert_equal(grads(attached, attached(x).square().mean()), expected)
    collected.layers[0].router.__class__ = SoftmaxTopKRouter
    collected(x)
    assert (with_penalty - aux_loss(collected)).item() == pytest.approx(seen[0].penalty.item() / layers)


def test_tokens_that_stood_for_no_sample_attach_nothing():
    _, attached = pair()
    mark_root(attached)
    y = attached(tokens())
    silence(attached)
    assert all(g.abs().max() == 0 for g in grads(attached, y[:0].sum()))
    assert any(g.abs().max() > 0 for g in grads(attached, 0 * attached(tokens()).sum())), "the next forward counts"


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_carry_the_mode_and_a_number_as_scale(clone):
    _, attached = pair()
    set_aux_scale(attached, 0.25)
    x = tokens()
    attached(x)
    twin = clone(attached)
    assert_equal(grads(twin, twin(x).square().mean()), grads(attached, attached(x).square().mean()))
    set_aux_scale(attached, lambda: 0.25)
    assert clone(attached).layers[0].aux.scale == 1.0


def test_a_pass_without_tokens_leaves_zero_gradients():
    _, attached = pair()
    assert all(g.abs().max() == 0 for g in grads(attached, attached(tokens()[:0]).sum()))


def test_wrong_arguments_are_refused():
    model = Net()
    with pytest.raises(ConfigError, match="Did you mean: attached"):
        MoELayer(8, num_experts=4, aux_loss="atached")
    with pytest.raises(ConfigError, match="Allowed: collected, attached"):
        set_aux_mode(model, "both")
    with pytest.raises(ConfigError, match="collected"):
        set_aux_scale(model, 0.5)
    set_aux_mode(model, "attached")
    for scale in (-1.0, float("nan"), "auto", None):
        with pytest.raises(ConfigError, match="scale"):
            set_aux_scale(model, scale)


def test_a_model_without_moe_layers_is_left_as_it_is():
    dense = nn.Linear(2, 2)
    set_aux_mode(dense, "attached")
    set_aux_scale(dense, 0.5)
    assert aux_loss(dense).item() == 0
