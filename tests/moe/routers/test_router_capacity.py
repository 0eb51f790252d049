"""Capacity rules against the libraries' formulas, and who is served when an expert is full."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from router_cases import build, choices, route

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, Routing
from moezoo.moe.dispatch.capacity import CAPACITY_RULES, apply_capacity, expert_capacity


@pytest.mark.parametrize(
    ("rule", "args", "expected"),
    [
        ("gshard", (10, 2, 4, 1.0), 5),
        ("gshard", (10, 2, 4, 1.25), 7),
        ("vmoe", (10, 2, 4, 1.0), 8),
        ("vmoe", (16, 1, 4, 1.0), 4),
        ("vmoe", (17, 1, 4, 1.0), 8),
        ("tutel", (10, 2, 4, 1.0), 6),
        ("tutel", (10, 2, 4, 1.25), 6),
        ("tutel", (10, 2, 4, 1.5), 8),
        ("megablocks", (10, 2, 4, 1.0), 5),
        ("megablocks", (11, 1, 4, 1.0), 2),
        ("lucidrains", (40, 2, 4, 1.25), 12),
        ("lucidrains", (10, 2, 4, 1.0), 4),
    ],
)
def test_each_rule_gives_its_librarys_capacity(rule, args, expected):
    assert expert_capacity(*args, rule) == expected


@pytest.mark.parametrize("rule", CAPACITY_RULES)
def test_the_layer_drops_by_its_rule(rule):
    layer = build("softmax_topk", num_experts=4, top_k=2, capacity_factor=0.6, capacity_rule=rule).eval()
    routing = route(layer, torch.randn(2, 25, 4, dtype=torch.float64))
    wanted = routing.counts(dropped=True)
    capacity = {"gshard": 15, "vmoe": 16, "tutel": 14, "megablocks": 15, "lucidrains": 7}[rule]
    assert torch.equal(routing.counts(), wanted.clamp(max=capacity))
    assert wanted.max() > capacity


def test_the_capacity_of_a_varying_number_of_experts_goes_by_top_k():
    layer = build("top_p", num_experts=4, top_k=1, capacity_factor=1.0, router_args={"p": 1.0}).eval()
    routing = route(layer, torch.randn(1, 20, 4, dtype=torch.float64))
    assert routing.counts().tolist() == [5.0] * 4
    assert routing.num_dropped() == 60


cases = st.tuples(st.integers(1, 12), st.integers(1, 5), st.integers(0, 2**31)).flatmap(
    lambda c: st.tuples(st.just(c), st.integers(1, c[1]))
)


@settings(max_examples=60, deadline=None)
@given(cases, st.sampled_from([0.25, 0.5, 1.0]))
def test_by_score_the_tokens_with_the_best_gate_are_served_first(case, factor):
    (num_tokens, num_experts, seed), top_k = case
    logits = torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits = (logits * 2).round() / 2  # half steps, so that ties are common
    full = Routing.from_logits(logits, top_k, False)
    kept = ~apply_capacity(full, factor, priority="score").dropped.view(num_tokens, top_k)
    capacity = math.ceil(factor * num_tokens * top_k / num_experts)
    order = sorted(range(num_tokens), key=lambda t: (-full.probs[t].max().item(), t))
    load, expected = [0] * num_experts, torch.zeros(num_tokens, top_k, dtype=torch.bool)
    for choice in range(top_k):
        for t in order:
            e = full.expert_index.view(num_tokens, top_k)[t, choice]
            if load[e] < capacity:
                load[e] += 1
                expected[t, choice] = True
    assert torch.equal(kept, expected)


def test_a_full_expert_keeps_the_best_gates_with_bpr_and_the_first_tokens_without():
    gates = torch.tensor([0.2, 0.9, 0.1, 0.8, 0.7, 0.3], dtype=torch.float64)
    x = torch.stack([gates, torch.zeros(6, dtype=torch.float64)], dim=-1)[None]
    survivors = {}
    for name in ("softmax_topk", "bpr_topk"):
        layer = build(name, dim=2, num_experts=2, top_k=1, capacity_factor=1.0).eval()
        with torch.no_grad():
            layer.router.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
        survivors[name] = [t for t, token in enumerate(choices(route(layer, x))) if token]
    assert survivors == {"softmax_topk": [0, 1, 2], "bpr_topk": [1, 3, 4]}


def test_without_drops_bpr_equals_plain_top_k():
    bpr, plain = build("bpr_topk").eval(), build("softmax_topk", normalize=False).eval()
    plain.load_state_dict(bpr.state_dict())
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    assert torch.equal(bpr(x), plain(x))


def test_unchosen_places_take_no_room():
    chosen = torch.tensor([[True, False], [True, False], [True, True]])
    routing = Routing.from_mask(chosen, torch.ones(3, 2), torch.tensor([[2.0, 1.0]] * 3))
    limited = apply_capacity(routing, 1.0, top_k=1)
    assert choices(limited) == [{0: 1.0}, {0: 1.0}, {1: 1.0}]
    assert limited.num_dropped() == 1
    assert limited.counts(dropped=True).tolist() == [3, 1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"capacity_rule": "v_moe", "capacity_factor": 1.0}, "capacity_rule='v_moe'.*Did you mean: vmoe"),
        ({"capacity_rule": "vmoe"}, "does nothing without a capacity_factor"),
        ({"capacity_factor": 0}, "capacity_factor=0"),
    ],
)
def test_a_wrong_capacity_is_refused(args, words):
    with pytest.raises(ConfigError, match=words):
        MoELayer(4, num_experts=2, **args)
