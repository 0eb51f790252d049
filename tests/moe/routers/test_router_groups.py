"""Groups of tokens: a layer with a group size does what it does for each group alone."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from router_cases import build, route

from moezoo.errors import ConfigError, InputError
from moezoo.moe import FixedCapacity, MoELayer, RoundedCapacity, aux_loss
from moezoo.moe.losses import AUX_LOSSES

WIDTH = 4
LIMITS = [
    {"capacity_factor": 0.5},
    {"capacity_factor": 0.6, "capacity_rule": RoundedCapacity("ceil", None)},
    {"capacity_factor": 0.5, "capacity_rule": RoundedCapacity()},
    {"capacity_rule": FixedCapacity(2)},
    {"capacity_factor": 1.0, "capacity_rule": lambda T, K, E, factor: max(int(T * factor) // E, 1)},
    {},
]
TOP_K = ["noisy_topk", "bpr_topk", "softmax_topk", "top_p", "sigmoid_bias", "per_image", "dense_softmax"]
FULL_ONLY = ["expert_choice", "soft"]


def pair(router, limit, group_size, **args):
    """A layer with groups, and the same one without."""
    torch.manual_seed(0)
    grouped = build(router, group_size=group_size, **limit, **args).eval()
    torch.manual_seed(0)
    return grouped, build(router, **limit, **args).eval()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(TOP_K + FULL_ONLY),
    st.sampled_from(LIMITS),
    st.integers(1, 7),
    st.integers(0, 20),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_groups_are_routed_each_by_itself(router, limit, group_size, num_tokens, best_first, seed):
    if router == "soft":
        limit = {}
    if router in FULL_ONLY:
        num_tokens -= num_tokens % group_size
    own = {"router_args": {"batch_priority": best_first}} if router == "noisy_topk" else {}
    grouped, alone = pair(router, limit, group_size, **own)
    x = torch.randn(num_tokens, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = (2 * x).round() / 2  # so that ties are common
    if router == "per_image":  # whose samples would be cut
        x = x[:group_size]
    routing, parts = route(grouped, x), [route(alone, part) for part in x.split(group_size)] if len(x) else []
    expected = torch.cat([alone(part) for part in x.split(group_size)])
    torch.testing.assert_close(grouped(x), expected, rtol=0, atol=1e-12)
    assert torch.equal(routing.dropped, torch.cat([part.dropped for part in parts])) if parts else not len(x)
    split = routing.groups()
    assert len(split) == len(parts)
    for ours, part in zip(split, parts, strict=True):
        assert torch.equal(ours.expert_index, part.expert_index)
        assert torch.equal(ours.token_index, part.token_index)
        assert torch.equal(ours.dropped, part.dropped)
        torch.testing.assert_close(ours.weight, part.weight)
        assert (ours.num_tokens, ours.group_size, ours.samples) == (part.num_tokens, None, 1)
        if ours.slots is not None:
            torch.testing.assert_close(ours.slots.dispatch, part.slots.dispatch)
    for kind in AUX_LOSSES if parts else ():
        if kind in ("compute_budget", "router_z", "local_entropy"):  # which speak of tokens, not of a group's load
            continue
        each = torch.stack([AUX_LOSSES[kind](part) for part in parts])
        torch.testing.assert_close(AUX_LOSSES[kind](routing), each.mean(), msg=kind)


def test_groups_may_span_samples_and_the_last_may_be_smaller():
    grouped, alone = pair("softmax_topk", {"capacity_factor": 0.5}, 8)
    x = torch.randn(3, 5, WIDTH, dtype=torch.float64)
    flat = x.flatten(0, 1)
    expected = torch.cat([alone(flat[:8]), alone(flat[8:])])
    torch.testing.assert_close(grouped(x).flatten(0, 1), expected)
    routing = route(grouped, x)
    assert torch.equal(routing.token_index, torch.arange(15).repeat_interleave(2))
    # 4 of 8 tokens' 16 assignments to one of 4 experts: 2; of the last 7: 14 / 4 / 2 rounded up.
    assert routing.groups()[0].counts().max() == 2
    assert routing.groups()[1].counts().max() == 2


def test_a_last_group_too_small_for_a_strict_rule_leaves_each_expert_one():
    layer = MoELayer(
        WIDTH, num_experts=8, capacity_factor=1.0, capacity_rule=RoundedCapacity("round", None), group_size=8
    ).eval()
    torch.nn.init.zeros_(layer.router.weight)  # all want the first expert
    routing = route(layer, torch.randn(10, WIDTH))
    assert (~routing.dropped).nonzero().flatten().tolist() == [0, 8]


def test_a_rule_that_gives_no_whole_number_for_the_last_group_is_refused():
    layer = MoELayer(
        WIDTH, num_experts=4, capacity_factor=1.0, capacity_rule=lambda T, K, E, factor: T // E if T == 8 else T / E
    )
    with pytest.raises(ConfigError, match=r"gives 0\.5 for 2 tokens"):
        layer(torch.randn(2, WIDTH))
    layer.router.group_size = 8
    with pytest.raises(ConfigError, match=r"gives 0\.5 for 2 tokens"):
        layer(torch.randn(10, WIDTH))


@pytest.mark.parametrize("router", FULL_ONLY)
def test_expert_choice_and_slots_need_full_groups(router):
    layer = build(router, group_size=4)
    with pytest.raises(InputError, match=r"10 tokens do not divide into groups of group_size=4"):
        layer(torch.randn(2, 5, WIDTH, dtype=torch.float64))
    assert layer(torch.randn(0, 5, WIDTH, dtype=torch.float64)).shape == (0, 5, WIDTH)


def test_the_factor_of_evaluation_acts_in_evaluation_alone():
    layer = build("noisy_topk", capacity_factor=0.25, eval_capacity_factor=4.0, router_args={"sigma": 0.0})
    x = torch.randn(1, 16, WIDTH, dtype=torch.float64)
    assert route(layer.train(), x).num_dropped() > 0
    assert route(layer.eval(), x).num_dropped() == 0
    picking = build("expert_choice", top_k=1, capacity_factor=1.0, eval_capacity_factor=0.5)
    assert route(picking.train(), x).counts().tolist() == [4] * 4
    assert route(picking.eval(), x).counts().tolist() == [2] * 4


@pytest.mark.parametrize("router", ["expert_choice", "soft"])
def test_noise_is_one_draw_in_training_alone(router, monkeypatch):
    size = {"expert_choice": "sigma", "soft": "noise_std"}[router]
    layer = build(router, router_args={size: 0.5})
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    quiet = route(layer.eval(), x)
    draws = []

    def drawn(logits):
        draws.append(torch.ones_like(logits).cumsum(-1))
        return draws[-1]

    monkeypatch.setattr(torch, "randn_like", drawn)
    noisy = route(layer.train(), x)
    assert len(draws) == 1
    torch.testing.assert_close(noisy.clean_logits, quiet.logits)
    std = 0.5 / 4 if router == "expert_choice" else 0.5
    assert noisy.noise_std == std
    if router == "expert_choice":
        torch.testing.assert_close(noisy.logits, quiet.logits + std * draws[0])
    else:
        logits = quiet.slots.combine.log() + std * draws[0].view(2, 5, 4, -1)
        torch.testing.assert_close(noisy.slots.combine, logits.flatten(2).softmax(-1).view_as(logits))
        torch.testing.assert_close(noisy.slots.dispatch.sum(1), torch.ones_like(noisy.slots.dispatch.sum(1)))
    monkeypatch.setattr(torch, "randn_like", None)
    route(layer.eval(), x)
    layer.router.sigma = layer.router.noise_std = 0.0
    route(layer.train(), x)


def test_the_auxiliary_loss_is_the_mean_over_groups():
    weights = {"importance": 1.0, "load": 0.5, "load_balancing": 0.25}
    layer = build(
        "noisy_topk", group_size=4, aux_weights=weights, aux_args={"load_balancing": {"first_choice": True}}
    ).train()
    x = torch.randn(3, 4, WIDTH, dtype=torch.float64)
    routing = route(layer, x)
    parts = [dataclasses.replace(part, ranks=None) for part in routing.groups()]
    expected = sum(
        weight * torch.stack([AUX_LOSSES[k](p, **layer.aux.args.get(k, {})) for p in parts]).mean()
        for k, weight in weights.items()
    )
    torch.testing.assert_close(aux_loss(layer).double(), expected)
    first_TE = torch.zeros(12, 4, dtype=torch.float64).scatter(1, routing.probs.argmax(1, keepdim=True), 1.0)
    by_hand = (4 * (first_TE.view(3, 4, 4).mean(1) * routing.probs.view(3, 4, 4).mean(1)).sum(-1)).mean()
    torch.testing.assert_close(AUX_LOSSES["load_balancing"](routing, first_choice=True), by_hand)
    layer(x[:0])
    aux_loss(layer).backward()
    assert aux_loss(layer) == 0


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"group_size": 0}, "group_size=0 is not allowed"),
        ({"group_size": 2.5}, "group_size=2.5 is not allowed"),
        ({"capacity_factor": 1.0, "eval_capacity_factor": -1}, "eval_capacity_factor=-1 is not allowed"),
        ({"eval_capacity_factor": 2.0}, "eval_capacity_factor=2.0 does nothing without a capacity_factor"),
        ({"capacity_rule": RoundedCapacity()}, "does nothing without a capacity_factor"),
        ({"capacity_rule": FixedCapacity(2), "capacity_factor": 1.0}, "capacity_factor=1.0 does nothing with"),
        ({"capacity_rule": 4, "capacity_factor": 1.0}, "capacity_rule=4 is not allowed: it must be one of gshard"),
        ({"capacity_rule": RoundedCapacity, "capacity_factor": 1.0}, "capacity_rule=<class.* is not allowed"),
        (
            {"capacity_factor": 0.1, "capacity_rule": RoundedCapacity("round"), "group_size": 5},
            "capacity_factor=0.1 is too small: 5 tokens",
        ),
        (
            {
                "capacity_factor": 1.0,
                "eval_capacity_factor": 0.1,
                "capacity_rule": RoundedCapacity("round"),
                "group_size": 5,
            },
            "capacity_factor=0.1 is too small",
        ),
        ({"capacity_factor": 1.0, "capacity_rule": lambda *_: 2.5, "group_size": 5}, "gives 2.5 for 5 tokens"),
        ({"router": "noisy_topk", "router_args": {"batch_priority": 1}}, "batch_priority=1 is not allowed"),
        ({"router": "expert_choice", "group_size": 4, "router_args": {"scope": "batch"}}, "scope='batch' does nothing"),
        ({"router": "expert_choice", "router_args": {"sigma": -1}}, "sigma=-1"),
        ({"router": "soft", "router_args": {"noise_std": -1}}, "noise_std=-1"),
        (
            {"router": "soft", "eval_capacity_factor": 1.0},
            "eval_capacity_factor=1.0 is not allowed: with SoftRouter num_slots",
        ),
        ({"dispatch_dtype": "bf16"}, "dispatch_dtype='bf16' is not allowed.*bfloat16"),
        ({"aux_args": {"load_balancing": {"first_choice": 1}}}, "first_choice=1 is not allowed"),
    ],
)
def test_wrong_arguments_are_refused(args, words):
    with pytest.raises(ConfigError, match=words):
        MoELayer(WIDTH, num_experts=4, **args)
