"""Layers with groups, rules and rounded dispatch where layers are compiled, exported, recomputed, changed, or empty."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from moe_reference import naive_expert
from router_cases import build, route
from torch.utils.checkpoint import checkpoint

from moezoo.errors import ConfigError, InputError
from moezoo.moe import (
    FixedCapacity,
    MoELayer,
    RoundedCapacity,
    add_experts,
    aux_loss,
    prune_experts,
    record_routing,
)

DIM = 4
GROUPED = {
    "priority": ("noisy_topk", {"router_args": {"batch_priority": True}, "capacity_factor": 0.6, "group_size": 12}),
    "rounded": (
        "softmax_topk",
        {"capacity_factor": 0.6, "capacity_rule": RoundedCapacity("round", None), "group_size": 7},
    ),
    "fixed": ("softmax_topk", {"capacity_rule": FixedCapacity(2), "group_size": 5}),
    "picked": ("expert_choice", {"top_k": 1, "capacity_rule": RoundedCapacity(), "group_size": 5}),
    "slots": ("soft", {"group_size": 5}),
}
every_layer = pytest.mark.parametrize("name", GROUPED)

one_quickly = pytest.mark.parametrize(
    "name", ["priority", *(pytest.param(name, marks=pytest.mark.slow) for name in GROUPED if name != "priority")]
)


def made(name, **args):
    router, own = GROUPED[name]
    return build(router, **{**own, **args})


def tokens(*shape):
    return torch.randn(*shape, DIM, dtype=torch.float64)


@one_quickly
def test_exported_they_follow_other_batches(name):
    layer = made(name, dispatch_dtype="bfloat16").eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(layer, (tokens(3, 5),), dynamic_shapes={"x": {0: batch}}).module()
    for size in (3, 1, 8):
        x = tokens(size, 5)
        torch.testing.assert_close(program(x), layer(x))


@pytest.mark.slow
@every_layer
def test_compiled_in_one_graph_they_equal_eager(name):
    torch._dynamo.reset()
    layer = made(name).eval()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for size in (3, 3, 4):
        x = tokens(size, 5)
        torch.testing.assert_close(compiled(x), layer(x))


@every_layer
def test_without_values_or_tokens_they_have_the_right_shape(name):
    layer = made(name)
    assert layer(tokens(0, 5)).shape == (0, 5, DIM)
    aux_loss(layer).backward()
    rows = sum(route(layer.eval(), tokens(3, 5)).expert_rows())
    meta = layer.to("meta")
    x = torch.empty(3, 5, DIM, dtype=torch.float64, device="meta")
    assert meta(x).shape == x.shape
    assert sum(route(meta, x).expert_rows()) >= rows


@pytest.mark.parametrize("name", ["priority", "picked"])
def test_recomputed_they_count_once_and_learn_the_same(name):
    plain = made(name, aux_weights={"importance": 1.0, "load_balancing": 1.0}).train()
    plain.router.noise_std = plain.router.sigma = 0.0
    again = copy.deepcopy(plain)
    x = tokens(3, 5)
    (plain(x).square().sum() + aux_loss(plain)).backward()
    y = checkpoint(again, x, use_reentrant=False)
    (y.square().sum() + aux_loss(again)).backward()
    torch.testing.assert_close(aux_loss(again), aux_loss(plain))
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_surgery_keeps_groups_and_noise_to_the_number_of_experts():
    layer = build("expert_choice", top_k=1, group_size=5, router_args={"sigma": 1.0}, capacity_rule=RoundedCapacity())
    x = tokens(3, 5)
    add_experts(layer, num_new=4, data=[x])
    assert route(layer.train(), x).noise_std == 1 / 8
    strict = build("softmax_topk", top_k=1, group_size=5, capacity_factor=0.6, capacity_rule=RoundedCapacity("round"))
    with pytest.raises(ConfigError, match=r"capacity_factor=0\.6 is too small: 5 tokens with 1 of 8 experts"):
        add_experts(strict, num_new=4, data=[x])
    assert strict.num_experts == 4
    prune_experts(strict, keep=2, data=[x])
    assert route(strict.eval(), x).group_size == 5


def test_copies_and_pickles_keep_rules_and_groups():
    layer = made("rounded", dispatch_dtype="bfloat16").eval()
    x = tokens(3, 5)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), layer(x))


def rounded(tensor):
    return tensor.bfloat16().double()


def by_hand(layer, x_TD, routing):
    """What experts get and give is rounded; the router's input, weights and what becomes of a token are not."""
    e, out = layer.experts, []
    for t in range(len(x_TD)):
        y = torch.zeros(DIM, dtype=torch.float64)
        for expert in range(layer.num_experts):
            weights = e.w_in[expert], e.b_in[expert], e.w_out[expert], e.b_out[expert]
            given = rounded(naive_expert(rounded(x_TD[t]), *weights, "gelu", False))
            y = y + routing.weight_by_expert()[t, expert] * given
        out.append(y)
    return torch.stack(out)


@pytest.mark.parametrize("path", ["auto", "loop", "grouped"])
def test_dispatch_rounds_what_experts_get_and_give_and_nothing_else(path):
    layer = build("softmax_topk", dispatch_dtype="bfloat16", num_shared_experts=1, path=path).eval()
    exact = build("softmax_topk", num_shared_experts=1, path=path).eval()
    exact.load_state_dict(layer.state_dict())
    x = tokens(2, 3)
    assert torch.equal(route(layer, x).logits, route(exact, x).logits)
    shared = layer.shared(x.view(6, DIM))
    expected = by_hand(layer, x.view(6, DIM), route(layer, x)) + shared
    torch.testing.assert_close(layer(x).view(6, DIM), expected, rtol=0, atol=1e-12)
    difference = (layer(x) - exact(x)).abs().max()
    assert 1e-5 < difference < 0.1 * exact(x).abs().max()


def test_slots_are_mixtures_of_rounded_tokens_with_exact_weights():
    layer = build("soft", dispatch_dtype="bfloat16").eval()
    x = tokens(2, 3)
    dispatch, combine = route(layer, x).slots
    slots = torch.einsum("bles,bld->besd", dispatch, rounded(x))
    e = layer.experts
    results = torch.stack(
        [
            torch.stack(
                [
                    naive_expert(slot, e.w_in[i], e.b_in[i], e.w_out[i], e.b_out[i], "gelu", False)
                    for slot in slots[:, i].reshape(-1, DIM)
                ]
            ).view(2, -1, DIM)
            for i in range(4)
        ],
        dim=1,
    )
    expected = torch.einsum("bles,besd->bld", combine, rounded(results))
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)


def test_rounding_passes_gradients_on():
    layer = build("softmax_topk", dispatch_dtype="bfloat16")
    x = tokens(2, 3).requires_grad_()
    layer(x).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in (x, *layer.parameters()))


def test_gradients_travel_back_row_by_row():
    layer = build("softmax_topk", dispatch_dtype="bfloat16", top_k=3)
    torch.nn.init.zeros_(layer.router.weight)  # nothing comes back by way of the router
    x, given = tokens(2, 3).requires_grad_(), []
    layer.experts.register_forward_pre_hook(lambda _module, args: given.append(args[0]))
    with record_routing(layer) as records:
        out = layer(x)
    given[0].retain_grad()
    out.square().sum().backward()
    of_token = torch.zeros(6, DIM, dtype=torch.float64)
    order = records[0].routing.token_index[records[0].routing.expert_index.argsort(stable=True)]
    of_token.index_add_(0, order, rounded(given[0].grad))
    assert torch.equal(x.grad.view(6, DIM), rounded(of_token))


def test_sources_are_refused_with_rounded_dispatch():
    layer = MoELayer(DIM, num_experts=2, dispatch_dtype="bfloat16")
    with pytest.raises(InputError, match="sources= do not go with dispatch_dtype=bfloat16"):
        layer(torch.randn(2, 3, DIM), sources=torch.randn(2, 2, 3, DIM))
