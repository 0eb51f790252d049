"""Auxiliary losses of a whole model: exact, idempotent, and safe under checkpointing, copying and
accumulation."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from moezoo.errors import AuxLossError
from moezoo.moe import MoELayer, aux_loss, collect_aux, record_routing
from moezoo.moe.aux import mark_root
from moezoo.moe.losses import importance_loss, load_balancing_loss, router_z_loss


class Net(nn.Module):
    """Residual MoE layers; ``order`` says which is called when, ``checkpointed`` how."""

    def __init__(self, layers=2, order=None, reentrant=None, **args):
        super().__init__()
        self.layers = nn.ModuleList(MoELayer(8, num_experts=4, top_k=2, hidden_dim=6, **args) for _ in range(layers))
        self.order = range(layers) if order is None else order
        self.reentrant = reentrant

    def forward(self, x):
        for i in self.order:
            layer = self.layers[i]
            x = x + (layer(x) if self.reentrant is None else checkpoint(layer, x, use_reentrant=self.reentrant))
        return x


def routings(model, x):
    """Every routing of one forward, from hooks of its own; the graph is kept."""
    seen = []
    layers = [module for module in model.modules() if isinstance(module, MoELayer)]
    handles = [layer.router.register_forward_hook(lambda _m, _a, r: seen.append(r)) for layer in layers]
    model(x)
    for handle in handles:
        handle.remove()
    return seen


def expected_loss(seen):
    return 0.01 * sum(map(load_balancing_loss, seen)) / len(seen) + 0.001 * sum(map(router_z_loss, seen)) / len(seen)


def test_per_kind_the_mean_over_layers_then_the_weighted_sum():
    model, x = Net(layers=3), torch.randn(5, 8)
    seen = routings(model, x)
    torch.testing.assert_close(aux_loss(model), expected_loss(seen))


def test_layers_with_different_kinds_are_averaged_per_kind():
    model, x = Net(layers=2), torch.randn(5, 8)
    model.layers[1].aux.weights = {"importance": 0.5, "load_balancing": 0.0}
    first, second = routings(model, x)
    expected = 0.01 * load_balancing_loss(first) + 0.001 * router_z_loss(first) + 0.5 * importance_loss(second)
    torch.testing.assert_close(aux_loss(model), expected)


def test_reading_twice_gives_the_same_value_and_gradient():
    model = Net()
    model(torch.randn(5, 8))
    once, twice = aux_loss(model), aux_loss(model)
    assert once.item() == twice.item() > 0
    weight = model.layers[0].router.weight
    (a,) = torch.autograd.grad(once, weight, retain_graph=True)
    (b,) = torch.autograd.grad(twice, weight)
    assert torch.equal(a, b)


def test_zero_in_evaluation_without_moe_layers_and_before_any_forward():
    model = Net()
    assert aux_loss(model).item() == 0
    model(torch.randn(5, 8))
    model.eval()
    model(torch.randn(5, 8))
    assert aux_loss(model).item() == 0
    plain = aux_loss(nn.Linear(2, 2))
    assert plain.item() == 0
    assert plain.dtype == torch.float32


def test_evaluation_keeps_no_losses():
    model = Net().eval()
    model(torch.randn(5, 8))
    assert all(layer.aux.calls == [] for layer in model.layers)


def test_a_layer_put_in_evaluation_mode_leaves_no_stale_loss():
    model, x = Net(layers=2), torch.randn(5, 8)
    model(x)
    model.layers[0].eval()
    seen = routings(model, x)
    torch.testing.assert_close(aux_loss(model), expected_loss(seen[1:]))


def test_a_layer_called_twice_counts_twice_in_a_marked_root():
    model, x = Net(layers=2, order=[0, 1, 0]), torch.randn(5, 8)
    mark_root(model)
    mark_root(model)
    assert len(model._forward_hooks) == 1, "marking again changes nothing"
    model(torch.randn(9, 8))  # an earlier forward must leave nothing behind
    seen = routings(model, x)
    assert len(seen) == 3
    torch.testing.assert_close(aux_loss(model), expected_loss(seen))


def test_a_part_run_alone_after_a_marked_forward_replaces_its_own_call():
    model = Net(layers=1)
    mark_root(model)
    model(torch.randn(5, 8))
    seen = routings(model.layers[0], torch.randn(7, 8))
    torch.testing.assert_close(aux_loss(model), expected_loss(seen))


def test_without_a_marked_root_the_last_call_counts():
    model, x = Net(layers=1, order=[0, 0]), torch.randn(5, 8)
    seen = routings(model, x)
    torch.testing.assert_close(aux_loss(model), expected_loss(seen[-1:]))


@pytest.mark.parametrize("marked", [False, True])
def test_collect_aux_covers_several_forwards(marked):
    model = Net()
    if marked:
        mark_root(model)
    model(torch.randn(3, 8))
    with collect_aux(model) as aux:
        assert aux().item() == 0, "what ran before does not count"
        seen = routings(model, torch.randn(5, 8)) + routings(model, torch.randn(7, 8))
        torch.testing.assert_close(aux(), expected_loss(seen))
        assert aux().item() == aux_loss(model).item()
    torch.testing.assert_close(aux(), expected_loss(seen))
    last = routings(model, torch.randn(5, 8))
    torch.testing.assert_close(aux_loss(model), expected_loss(last))


def test_the_gradient_reaches_the_router_only():
    model = Net(layers=1)
    model(torch.randn(5, 8))
    aux_loss(model).backward()
    assert model.layers[0].router.weight.grad.abs().sum() > 0
    assert model.layers[0].experts.w_in.grad is None


def loss_and_grads(model, x):
    model.zero_grad()
    y = model(x)
    loss = y.square().mean() + 100 * aux_loss(model)
    loss.backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"num_shared_experts": 1},
        {"router_args": {"noise_std": 1.0}},
        {"path": "grouped"},
        {"capacity_factor": 0.5},
    ],
)
def test_non_reentrant_checkpointing_changes_neither_value_nor_gradient(args, marked):
    plain = Net(order=[0, 1, 0], **args)
    saving = Net(order=[0, 1, 0], reentrant=False, **args)
    saving.load_state_dict(plain.state_dict())
    if marked:
        mark_root(plain)
        mark_root(saving)
    x = torch.randn(6, 8)
    for _ in range(2):
        torch.manual_seed(1)
        loss, grads = loss_and_grads(plain, x)
        torch.manual_seed(1)
        saved_loss, saved_grads = loss_and_grads(saving, x)
        assert loss.item() == saved_loss.item()
        for a, b in zip(grads, saved_grads, strict=True):
            torch.testing.assert_close(a, b)
    for layer, other in zip(plain.layers, saving.layers, strict=True):
        assert len(layer.aux.calls) == len(other.aux.calls), "the recomputation is not a call"


def test_a_checkpointed_forward_is_recorded_once():
    model = Net(reentrant=False)
    with record_routing(model) as records:
        (model(torch.randn(5, 8)).sum() + aux_loss(model)).backward()
    assert [(r.name, r.call) for r in records] == [("layers.0", 0), ("layers.1", 0)]


def test_reentrant_checkpointing_is_an_error_that_names_the_remedy():
    model = Net(reentrant=True)
    model(torch.randn(5, 8, requires_grad=True))
    with pytest.raises(AuxLossError, match="use_reentrant=False"):
        aux_loss(model)


def test_one_graphless_call_among_several_is_noticed():
    model = Net(layers=1)
    with collect_aux(model) as aux:
        with torch.no_grad():
            model(torch.randn(5, 8))
        model(torch.randn(5, 8))
        with pytest.raises(AuxLossError):
            aux()
    model(torch.randn(5, 8))
    assert aux_loss(model).requires_grad


def test_a_training_forward_under_no_grad_can_be_read_under_no_grad():
    model = Net()
    with torch.no_grad():
        model(torch.randn(5, 8))
        assert aux_loss(model).item() > 0


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_after_a_training_forward_carry_the_weights_and_no_graph(clone):
    model = Net(aux_weights={"importance": 0.25})
    mark_root(model)
    model(torch.randn(5, 8))
    twin = clone(model)
    assert all(layer.aux.calls == [] for layer in twin.layers)
    assert twin.layers[0].aux.weights == {"importance": 0.25}
    x = torch.randn(5, 8)
    for m in (model, twin):
        m(x)
    assert aux_loss(twin).item() == aux_loss(model).item() > 0


def test_the_state_dict_holds_parameters_only():
    layer = MoELayer(8, num_experts=4, num_shared_experts=1)
    layer(torch.randn(5, 8))
    assert set(layer.state_dict()) == {name for name, _ in layer.named_parameters()}


def test_accumulated_gradients_are_the_sum_over_micro_batches():
    model = Net().double()
    batches = [torch.randn(5, 8, dtype=torch.float64) for _ in range(3)]
    separate = [loss_and_grads(model, x)[1] for x in batches]
    model.zero_grad()
    for x in batches:
        (model(x).square().mean() + 100 * aux_loss(model)).backward()
    for p, *grads in zip(model.parameters(), *separate, strict=True):
        torch.testing.assert_close(p.grad, sum(grads))


def test_autocast_and_half_precision_give_a_float32_loss():
    model = Net()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(torch.randn(5, 8))
        assert aux_loss(model).dtype == torch.float32
    half = Net().bfloat16()
    half(torch.randn(5, 8).bfloat16())
    assert aux_loss(half).dtype == torch.float32


def test_a_failed_forward_leaves_a_working_model():
    model = Net()
    mark_root(model)
    with pytest.raises(ArithmeticError):
        model(torch.full((5, 8), torch.nan))
    x = torch.randn(5, 8)
    seen = routings(model, x)
    torch.testing.assert_close(aux_loss(model), expected_loss(seen))
