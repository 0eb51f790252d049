"""What the router decides: top-k, ties, precision, noise, capacity, NaN."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from moe_reference import naive_kept, naive_routing

from moezoo.errors import ConfigError, NonFiniteError
from moezoo.moe import MoELayer, Routing
from moezoo.moe.dispatch.capacity import apply_capacity, expert_capacity
from moezoo.moe.routers import SoftmaxTopKRouter

cases = st.tuples(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2**31)).flatmap(
    lambda c: st.tuples(st.just(c), st.integers(1, c[1]), st.booleans())
)


@settings(max_examples=40, deadline=None)
@given(cases)
def test_top_k_equals_the_naive_choice_and_weights(case):
    (num_tokens, num_experts, seed), top_k, normalize = case
    logits = torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    logits = (logits * 2).round() / 2  # half steps, so that ties are common
    routing = Routing.from_logits(logits, top_k, normalize)
    expected = naive_routing(logits, top_k, normalize)
    assert routing.token_index.tolist() == [t for t in range(num_tokens) for _ in range(top_k)]
    assert routing.expert_index.tolist() == [e for token in expected for e, _ in token]
    torch.testing.assert_close(
        routing.weight, torch.tensor([w for token in expected for _, w in token], dtype=torch.float64)
    )
    torch.testing.assert_close(routing.probs, logits.softmax(-1))
    assert not routing.dropped.any()
    assert (routing.num_tokens, routing.num_experts) == (num_tokens, num_experts)


def test_ties_go_to_the_lowest_index():
    assert Routing.from_logits(torch.zeros(3, 5), 2).expert_index.tolist() == [0, 1] * 3
    assert Routing.from_logits(torch.tensor([[1.0, 3.0, 3.0, 3.0]]), 2).expert_index.tolist() == [1, 2]


def test_the_second_choice_is_right_where_its_probability_underflows():
    assert Routing.from_logits(torch.tensor([[0.0, 300.0, 100.0]]), 2).expert_index.tolist() == [1, 2]


def test_normalised_weights_equal_a_softmax_over_the_chosen_logits():
    logits = torch.randn(20, 6, dtype=torch.float64)
    routing = Routing.from_logits(logits, 3, True)
    chosen = logits.gather(1, routing.expert_index.view(20, 3))
    torch.testing.assert_close(routing.weight.view(20, 3), chosen.softmax(-1))


@pytest.mark.parametrize("top_k", [0, 5, -1, 1.5, True])
def test_from_logits_refuses_a_top_k_outside_its_range(top_k):
    with pytest.raises(ConfigError, match=r"top_k=.*from 1 to 4"):
        Routing.from_logits(torch.randn(3, 4), top_k)


def test_counts_leave_dropped_assignments_out_unless_asked():
    routing = apply_capacity(Routing.from_logits(torch.tensor([[9.0, 0.0]] * 4), 1), 0.5)
    assert routing.counts().tolist() == [1, 0]
    assert routing.counts(dropped=True).tolist() == [4, 0]


def test_detach_keeps_the_values_and_drops_the_graph():
    routing = Routing.from_logits(torch.randn(4, 3, requires_grad=True), 2)
    plain = routing.detach()
    assert routing.weight.requires_grad
    for name in ("weight", "logits", "clean_logits", "probs", "expert_index", "token_index", "dropped"):
        assert not getattr(plain, name).requires_grad
        assert torch.equal(getattr(plain, name), getattr(routing, name))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ((10, 1, 4, 1.0), 3),
        ((10, 2, 4, 1.0), 5),
        ((10, 2, 4, 1.25), 7),
        ((1, 1, 8, 0.5), 1),
        ((0, 2, 4, 1.0), 0),
    ],
)
def test_capacity_is_rounded_up(args, expected):
    assert expert_capacity(*args) == expected


@settings(max_examples=40, deadline=None)
@given(cases, st.sampled_from([0.25, 0.5, 1.0, 1.5]))
def test_first_choices_are_served_before_second_ones(case, factor):
    (num_tokens, num_experts, seed), top_k, normalize = case
    logits = torch.randn(num_tokens, num_experts, generator=torch.Generator().manual_seed(seed))
    full = Routing.from_logits(logits, top_k, normalize)
    routing = apply_capacity(full, factor)
    capacity = expert_capacity(num_tokens, top_k, num_experts, factor)
    kept = naive_kept(full.expert_index.view(num_tokens, top_k).tolist(), num_experts, capacity)
    assert (~routing.dropped).view(num_tokens, top_k).tolist() == kept
    assert torch.equal(routing.weight, full.weight), "the remaining weights are not rescaled"
    assert routing.counts().max() <= capacity


def test_routing_is_float32_for_bfloat16_input_and_under_autocast():
    router = SoftmaxTopKRouter(16, 8, top_k=2)
    x = torch.randn(200, 16)
    expected = router(x.bfloat16().float())
    half = router(x.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = router(x.bfloat16())
    for routing in (half, cast):
        assert routing.logits.dtype == routing.weight.dtype == routing.probs.dtype == torch.float32
        assert torch.equal(routing.expert_index, expected.expert_index)
        assert torch.equal(routing.weight, expected.weight)
    router_bf16 = SoftmaxTopKRouter(16, 8).bfloat16()
    assert router_bf16(x.bfloat16()).logits.dtype == torch.float32


@pytest.mark.parametrize("args", [{"noise_std": 1.0}, {"jitter": 0.3}])
def test_noise_and_jitter_act_in_training_only(args):
    router = SoftmaxTopKRouter(8, 4, top_k=2, **args)
    x = torch.randn(30, 8)
    assert not torch.equal(router(x).logits, router(x).logits)
    router.eval()
    routing = router(x)
    assert torch.equal(routing.logits, router(x).logits)
    torch.testing.assert_close(routing.logits, x @ router.weight.T)


def test_noise_leaves_the_clean_logits_clean():
    router = SoftmaxTopKRouter(8, 4, noise_std=0.5)
    x = torch.randn(4000, 8)
    routing = router(x)
    torch.testing.assert_close(routing.clean_logits, x @ router.weight.T)
    assert (routing.logits - routing.clean_logits).std().item() == pytest.approx(0.5, rel=0.05)
    torch.testing.assert_close(routing.probs, routing.logits.softmax(-1))


def test_jitter_multiplies_the_input_by_at_most_its_size():
    router = SoftmaxTopKRouter(1, 2, jitter=0.1)
    torch.nn.init.ones_(router.weight)
    ratio = router(torch.ones(2000, 1)).logits[:, 0]
    assert 0.9 <= ratio.min() < 0.91
    assert 1.09 < ratio.max() <= 1.1


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("path", ["loop", "grouped"])
def test_bad_input_is_an_error_in_training_and_stays_in_its_token_in_evaluation(bad, path):
    layer = MoELayer(8, num_experts=4, top_k=2, path=path)
    x = torch.randn(6, 8)
    clean = layer.eval()(x)
    x[2, 3] = bad
    with pytest.raises(NonFiniteError, match="not finite"):
        layer.train()(x)
    y = layer.eval()(x)
    assert y[2].isnan().all()
    others = torch.arange(6) != 2
    torch.testing.assert_close(y[others], clean[others])
