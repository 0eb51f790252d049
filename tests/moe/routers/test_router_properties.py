"""What every router promises, whatever its rule."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_reference import naive_expert
from router_cases import (
    BY_POSITION,
    BY_SAMPLE,
    CASES,
    DYNAMIC,
    FIXED,
    MIXING,
    NAMES,
    NO_DENSE_LIMIT,
    SCORED,
    SPLIT,
    build,
    choices,
    registered,
    route,
    types_for,
)
from torch.utils.flop_counter import FlopCounterMode

from moezoo.errors import NonFiniteError
from moezoo.moe import MoELayer
from moezoo.moe.dispatch.capacity import expert_capacity
from moezoo.moe.losses import load_balancing_loss
from moezoo.moe.routers import routers

every_router = pytest.mark.parametrize("name", NAMES)
sizes = st.tuples(st.integers(1, 6), st.integers(1, 3), st.integers(1, 6), st.integers(0, 10_000)).flatmap(
    lambda s: st.tuples(st.just(s), st.integers(1, s[0]))
)


def drawn(name, case, **args):
    (num_experts, batch, tokens, seed), top_k = case
    torch.manual_seed(seed)
    layer = build(name, num_experts=num_experts, top_k=top_k, **args).eval()
    x = torch.randn(batch, tokens, 4, dtype=torch.float64)
    return layer, x, types_for(name, layer, (batch, tokens))


def test_every_built_in_router_is_covered():
    built_in = {name for name in routers if routers.get(name).__module__.startswith("moezoo.moe.routers.")}
    assert built_in == {registered(name) for name in CASES} | SCORED


@every_router
@settings(max_examples=10, deadline=None)
@given(case=sizes)
def test_the_routing_is_well_formed(name, case):
    layer, x, types = drawn(name, case)
    routing = route(layer, x, types)
    assert routing.weight.isfinite().all()
    assert (routing.weight >= 0).all()
    torch.testing.assert_close(routing.probs.sum(-1), torch.ones(routing.num_tokens, dtype=torch.float64))
    assert routing.token_index.tolist() == sorted(routing.token_index.tolist())
    choices(routing)  # no expert twice
    assert routing.num_dropped() == 0
    assert routing.samples == x.shape[0]
    if routing.chosen is None:
        assert not routing.dropped.any()
    else:
        assert torch.equal(routing.dropped, ~routing.chosen)
    if name in DYNAMIC:
        assert len(routing.weight) == routing.num_tokens * routing.num_experts
    computed = torch.tensor([e for token in choices(routing) for e in token], dtype=torch.int64)
    counts = torch.bincount(computed, minlength=routing.num_experts).double()
    assert torch.equal(routing.counts(), counts)
    assert torch.equal(routing.counts(dropped=True), counts)


@pytest.mark.parametrize("name", sorted(set(NAMES) - BY_POSITION))
@settings(max_examples=10, deadline=None)
@given(case=sizes)
def test_permuting_the_tokens_of_a_sample_permutes_the_output(name, case):
    layer, x, types = drawn(name, case)
    order = torch.randperm(x.shape[1])
    moved = layer(x[:, order], token_type=None if types is None else types[:, order])
    torch.testing.assert_close(moved, layer(x, token_type=types)[:, order])


@every_router
@settings(max_examples=10, deadline=None)
@given(case=sizes)
def test_a_samples_result_does_not_depend_on_its_batch(name, case):
    layer, x, types = drawn(name, case)
    alone = [layer(x[i : i + 1], token_type=None if types is None else types[i : i + 1]) for i in range(len(x))]
    torch.testing.assert_close(layer(x, token_type=types), torch.cat(alone))


def test_expert_choice_over_the_batch_depends_on_it():
    layer = build("expert_choice", router_args={"scope": "batch"}, top_k=1).eval()
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    assert not torch.allclose(layer(x)[:1], layer(x[:1]))


@pytest.mark.parametrize("name", sorted(set(NAMES) - BY_SAMPLE - BY_POSITION))
def test_a_tokens_result_does_not_depend_on_its_sample(name):
    layer = build(name).eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    types = types_for(name, layer, (2, 5))
    alone = layer(x.view(10, 1, 4), token_type=None if types is None else types.view(10, 1))
    torch.testing.assert_close(layer(x, token_type=types), alone.view(2, 5, 4))


@pytest.mark.parametrize("name", sorted(set(NAMES) - NO_DENSE_LIMIT))
@pytest.mark.parametrize("path", ["loop", "grouped"])
def test_all_experts_chosen_equal_the_dense_mixture(name, path):
    args = {"top_p": {"p": 1.0}, "sigmoid_bias": {"route_scale": 1.0}}.get(name, {})
    layer = build(name, num_experts=3, top_k=3, router_args=args, path=path).eval()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    types = torch.zeros(2, 3, dtype=torch.int64) if types_for(name, layer, (2, 3)) is not None else None
    probs = route(layer, x, types).probs
    e = layer.experts
    weights = list(zip(e.w_in, e.b_in, e.w_out, e.b_out, strict=True))
    dense = torch.stack(
        [
            sum(probs[t, i] * naive_expert(x.view(6, 4)[t], *weights[i], "gelu", False) for i in range(3))
            for t in range(6)
        ]
    )
    # Where the weights are no softmax, K = E still means that each token's K weights are its probs.
    scale = 3 if name in FIXED and not layer.router.normalize else 1
    torch.testing.assert_close(layer(x, token_type=types), scale * dense.view(2, 3, 4))


@pytest.mark.parametrize("name", sorted(set(NAMES) - MIXING - SPLIT))
def test_one_expert_equals_the_dense_mlp_times_its_weight(name):
    layer = build(name, num_experts=1, top_k=1).eval()
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    types = torch.zeros(2, 3, dtype=torch.int64) if types_for(name, layer, (2, 3)) is not None else None
    weight = torch.tensor([token.get(0, 0.0) for token in choices(route(layer, x, types))], dtype=torch.float64)
    if name not in ("relu", "sigmoid_bias", "group_limited"):
        assert torch.equal(weight, torch.ones_like(weight))
    e = layer.experts
    dense = torch.stack(
        [naive_expert(t, e.w_in[0], e.b_in[0], e.w_out[0], e.b_out[0], "gelu", False) for t in x.view(6, 4)]
    )
    torch.testing.assert_close(layer(x, token_type=types), (weight[:, None] * dense).view(2, 3, 4))


@every_router
@pytest.mark.parametrize("top_k", [1, 2])
@pytest.mark.parametrize("path", ["loop", "grouped"])
def test_the_task_reaches_every_parameter(name, top_k, path):
    layer = build(name, num_experts=4, top_k=top_k, path=path)
    x = torch.randn(3, 20, 4, dtype=torch.float64)
    layer(x, token_type=types_for(name, layer, (3, 20))).square().sum().backward()
    for key, p in layer.named_parameters():
        assert p.grad is not None, key
        assert p.grad.isfinite().all(), key
        assert p.grad.abs().sum() > 1e-6, key


@every_router
def test_idle_experts_get_zero_gradients_not_none(name):
    layer = build(name, num_experts=16, top_k=1)
    x = torch.randn(1, 1, 4, dtype=torch.float64)
    layer(x, token_type=types_for(name, layer, (1, 1))).sum().backward()
    assert all(p.grad is not None for p in layer.parameters())


@every_router
def test_bfloat16_input_routes_exactly_as_its_float32_copy(name):
    layer = build(name, num_experts=8).float().eval()
    x = torch.randn(4, 50, 4).bfloat16()
    types = types_for(name, layer, (4, 50))
    args = {"samples": 4, "token_type": None if types is None else types.flatten()}
    expected = layer.router(x.float().view(-1, 4), **args)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        routing = layer.router(x.view(-1, 4), **args)
    assert routing.logits.dtype == routing.weight.dtype == routing.probs.dtype == torch.float32
    for field in ("token_index", "expert_index", "weight", "probs", "logits", "dropped"):
        assert torch.equal(getattr(routing, field), getattr(expected, field)), field
    in_half = copy.deepcopy(layer).bfloat16().router(x.view(-1, 4), **args)
    assert in_half.logits.dtype == in_half.weight.dtype == torch.float32


@every_router
def test_equal_scores_go_to_the_lowest_index(name):
    layer = build(name, num_experts=4, top_k=2).eval()
    x = torch.zeros(1, 3, 4, dtype=torch.float64)
    if name in FIXED:
        types = types_for(name, layer, (1, 3))
        assert choices(route(layer, x, types)) == choices(route(layer, x, types))
        return
    if name == "threshold":
        torch.nn.init.zeros_(layer.router.threshold)
    if name == "score_threshold":  # every score is 1/2, and so is the threshold
        torch.nn.init.zeros_(layer.router.bias)
        torch.nn.init.zeros_(layer.router.threshold_logit)
    if registered(name) in ("complexity", "hierarchical", "mlp_gate"):  # their biases alone decide, not the token
        for parameter in layer.router.parameters():
            torch.nn.init.zeros_(parameter)
    special = {"relu": [], "expert_choice": None, "score_threshold": [0]}
    for router in ("dense_softmax", "hierarchical", "mlp_gate", "soft", "sphero"):
        special[router] = [0, 1, 2, 3]
    for router in ("complexity", "complexity_in_order"):  # halfway between two and four
        special[router] = [0, 1, 2]
    special["mlp_gate_skipping"] = [0]  # a quarter each, none of which reaches the threshold
    expected = special.get(name, [0, 1])
    if expected is None:  # each expert takes the first two of three tokens
        assert [list(token) for token in choices(route(layer, x))] == [[0, 1, 2, 3], [0, 1, 2, 3], []]
    else:
        assert [list(token) for token in choices(route(layer, x))] == [expected] * 3


@every_router
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_bad_input_is_an_error_in_training_and_stays_in_its_sample_in_evaluation(name, bad):
    layer = build(name)
    x = torch.randn(3, 4, 4, dtype=torch.float64)
    types = types_for(name, layer, (3, 4))
    clean = layer.eval()(x, token_type=types)
    x[1, 2, 3] = bad
    with pytest.raises(NonFiniteError, match="not finite"):
        layer.train()(x, token_type=types)
    y = layer.eval()(x, token_type=types)
    torch.testing.assert_close(y[::2], clean[::2])


@every_router
@pytest.mark.parametrize("path", ["loop", "grouped"])
@pytest.mark.parametrize("capacity_factor", [None, 1.0])
def test_an_empty_batch_gives_an_empty_output_and_zero_gradients(name, path, capacity_factor):
    layer = build(name, path=path, capacity_factor=capacity_factor)
    for shape in ((0, 5, 4), (2, 0, 4), (0, 4)):
        x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        y = layer(x, token_type=types_for(name, layer, shape[:-1]))
        assert y.shape == x.shape
        y.sum().backward()
        assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@every_router
def test_meta_tensors_pass_in_training_and_evaluation(name):
    layer = build(name).to("meta")
    x = torch.randn(2, 5, 4, device="meta", dtype=torch.float64)
    types = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    assert layer(x, token_type=types).shape == x.shape
    assert layer.eval()(x, token_type=types).device.type == "meta"


@every_router
def test_loop_and_grouped_path_agree(name):
    loop = build(name, path="loop").eval()
    grouped = build(name, path="grouped").eval()
    grouped.load_state_dict(loop.state_dict())
    x = torch.randn(3, 7, 4, dtype=torch.float64)
    types = types_for(name, loop, (3, 7))
    outputs = []
    for layer in (loop, grouped):
        y = layer(x, token_type=types)
        y.square().sum().backward()
        outputs.append([y, *(p.grad for p in layer.parameters())])
    for ours, theirs in zip(*outputs, strict=True):
        torch.testing.assert_close(ours, theirs)


@every_router
def test_copies_and_pickles_route_alike(name):
    layer = build(name).eval()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    types = types_for(name, layer, (2, 5))
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x, token_type=types), layer(x, token_type=types))


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"expert_choice"} - MIXING))
@pytest.mark.parametrize("factor", [0.25, 1.0])
def test_capacity_bounds_every_expert_and_unchosen_assignments_are_no_drops(name, factor):
    layer = build(name, capacity_factor=factor).eval()
    x = torch.randn(2, 8, 4, dtype=torch.float64)
    types = types_for(name, layer, (2, 8))
    routing = route(layer, x, types)
    capacity = expert_capacity(16, layer.top_k, layer.num_experts, factor)
    assert routing.counts().max() <= capacity
    wanted, kept = routing.counts(dropped=True), routing.counts()
    assert torch.equal(kept, wanted.clamp(max=capacity))
    assert routing.num_dropped() == (wanted - kept).sum()


@every_router
def test_the_balance_loss_counts_chosen_assignments_only(name):
    layer = build(name).eval()
    x = torch.randn(2, 8, 4, dtype=torch.float64)
    routing = route(layer, x, types_for(name, layer, (2, 8)))
    counts = [sum(e in token for token in choices(routing)) for e in range(layer.num_experts)]
    expected = layer.num_experts * sum(
        c / sum(counts) * p for c, p in zip(counts, routing.probs.mean(0).tolist(), strict=True)
    )
    assert load_balancing_loss(routing).item() == pytest.approx(expected)


@every_router
def test_flops_by_formula_equal_the_counted_ones(name):
    layer = build(name, num_experts=6, path="loop").float().eval()
    x = torch.randn(2, 5, 4)
    types = types_for(name, layer, (2, 5))
    routing = route(layer, x, types)
    with FlopCounterMode(display=False) as counter:
        layer(x, token_type=types)
    assert layer.flops(routing) == counter.get_total_flops()


def test_token_types_of_another_shape_or_kind_are_refused():
    layer = MoELayer(4, num_experts=2, router="modality")
    for bad in (torch.zeros(2, dtype=torch.int64), torch.zeros(2, 3)):
        with pytest.raises(ValueError, match="token_type must be int64"):
            layer(torch.randn(2, 3, 4), token_type=bad)
