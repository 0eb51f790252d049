"""What single routers do besides their formula: noise, loads, seeds, and what their parameters learn."""

from __future__ import annotations

import math

import pytest
import torch
from moe_reference import best, matrix, naive_softmax, product, sigmoid
from router_cases import build, choices, route, types_for


def test_noisy_topk_adds_sigma_over_e_and_softmaxes_before_choosing():
    layer = build("noisy_topk", num_experts=8, top_k=2, router_args={"sigma": 2.0})
    x = torch.randn(1, 3000, 4, dtype=torch.float64)
    routing = route(layer, x)
    noise = routing.logits - routing.clean_logits
    assert noise.std().item() == pytest.approx(2.0 / 8, rel=0.02)
    assert routing.noise_std.item() == pytest.approx(2.0 / 8)
    torch.testing.assert_close(routing.clean_logits, x[0] @ layer.router.weight.T)
    for row, ours in zip(routing.logits.tolist()[:50], choices(routing), strict=False):
        probs = naive_softmax(row)
        assert ours == pytest.approx({e: probs[e] for e in best(row, 2)})
    assert layer.router.normalize is False
    quiet = route(layer.eval(), x)
    assert quiet.noise_std is None
    assert torch.equal(quiet.logits, quiet.clean_logits)


def test_shazeer_noise_has_the_learned_size_and_its_head_learns():
    layer = build("shazeer_topk", num_experts=3, top_k=2)
    x = torch.randn(1, 1, 4, dtype=torch.float64).expand(1, 4000, 4)
    routing = route(layer, x)
    std = [math.log1p(math.exp(z)) + 0.01 for z in product(matrix(layer.router.noise_weight), x[0, 0].tolist())]
    torch.testing.assert_close(routing.noise_std[0], torch.tensor(std, dtype=torch.float64))
    measured = (routing.logits - routing.clean_logits).std(0)
    torch.testing.assert_close(measured, torch.tensor(std, dtype=torch.float64), rtol=0.05, atol=0)
    for row, ours in zip(routing.logits.tolist()[:50], choices(routing), strict=False):
        chosen = best(row, 2)
        assert ours == pytest.approx(dict(zip(chosen, naive_softmax([row[e] for e in chosen]), strict=True)))
    routing.weight[::2].sum().backward()
    assert layer.router.noise_weight.grad.abs().sum() > 0


def test_attentive_noise_acts_in_training_only_and_keys_start_orthogonal():
    layer = build("attentive", router_args={"key_dim": 6, "noise_std": 0.5}, num_experts=4)
    fresh = type(layer.router)(8, 5, key_dim=6)
    torch.testing.assert_close(fresh.keys @ fresh.keys.T, torch.eye(5))
    x = torch.randn(1, 3000, 4, dtype=torch.float64)
    routing = route(layer, x)
    assert (routing.logits - routing.clean_logits).std().item() == pytest.approx(0.5, rel=0.05)
    assert route(layer.eval(), x).noise_std is None


def test_attentive_dropout_acts_on_the_queries_in_training_only():
    layer = build("attentive", router_args={"dropout": 0.5}, num_experts=4)
    x = torch.randn(1, 50, 4, dtype=torch.float64)
    assert not torch.equal(route(layer, x).logits, route(layer, x).logits)
    plain = build("attentive", num_experts=4)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(route(layer.eval(), x).logits, route(plain.eval(), x).logits)


def test_the_cosine_scale_is_clamped_and_blind_to_the_length_of_a_token():
    layer = build("cosine").eval()
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    torch.testing.assert_close(route(layer, 7 * x).logits, route(layer, x).logits)
    torch.nn.init.constant_(layer.router.log_scale, 50.0)
    assert route(layer, x).logits.abs().max() <= 100 + 1e-9


def test_expert_choice_loads_are_exactly_even_and_a_token_may_get_none():
    layer = build("expert_choice", num_experts=4, top_k=1, router_args={"scope": "batch"}).eval()
    routing = route(layer, torch.randn(4, 5, 4, dtype=torch.float64))
    assert routing.counts().tolist() == [5.0] * 4
    assert len(routing.weight) == 20
    assert any(not token for token in choices(routing))
    assert any(len(token) > 1 for token in choices(routing))


def test_expert_choice_orders_tokens_whose_probabilities_underflow():
    layer = build("expert_choice", dim=2, num_experts=2, top_k=1).float().eval()
    with torch.no_grad():
        layer.router.weight.copy_(torch.eye(2))
    x = torch.tensor([[[900.0, 0.0], [300.0, 0.0], [200.0, 0.0], [500.0, 0.0]]])
    assert sorted(e for e in choices(route(layer, x))[2]) == [1]
    assert [1 in token for token in choices(route(layer, x))] == [False, True, True, False]


def test_expert_choice_takes_its_capacity_from_factor_and_rule_and_normalises_on_request():
    x = torch.randn(1, 9, 4, dtype=torch.float64)
    for args, expected in [
        ({}, 5),
        ({"capacity_factor": 0.5}, 3),
        ({"capacity_factor": 0.5, "capacity_rule": "megablocks"}, 2),
        ({"capacity_factor": 9.0}, 9),
    ]:
        layer = build("expert_choice", num_experts=4, top_k=2, **args).eval()
        assert route(layer, x).counts().tolist() == [expected] * 4
    routing = route(build("expert_choice", num_experts=4, top_k=2, normalize=True).eval(), x)
    sums = [sum(token.values()) for token in choices(routing) if token]
    assert sums == pytest.approx([1.0] * len(sums))


def test_top_p_uses_all_experts_at_one_and_the_best_at_a_tiny_p():
    x = torch.randn(1, 50, 4)
    everything = build("top_p", num_experts=6, top_k=1, router_args={"p": 1.0}).float().eval()
    assert all(len(token) == 6 for token in choices(route(everything, 30 * x)))
    one = build("top_p", num_experts=6, top_k=1, router_args={"p": 1e-6}).float().eval()
    assert all(len(token) == 1 for token in choices(route(one, x)))


@pytest.mark.parametrize("name", ["hash", "hash_types", "random"])
def test_fixed_choices_repeat_and_the_seed_changes_them(name):
    x = torch.randn(2, 60, 4, dtype=torch.float64)
    layer = build(name, num_experts=4, top_k=2).eval()
    types = types_for(name, layer, (2, 60))
    routing = route(layer, x, types)
    assert choices(routing) == choices(route(layer, torch.randn_like(x), types))
    experts = routing.expert_index.view(120, 2)
    if name == "hash_types":
        for kind in range(7):
            assert len({tuple(row) for row in experts[types.flatten() == kind].tolist()}) == 1
        assert len({tuple(row) for row in experts.tolist()}) > 1
    else:
        assert torch.equal(experts[:60], experts[60:]), "the position in the sample decides"
        assert routing.counts().min() > 120 * 2 / 4 / 2
    seeded = build(name, num_experts=4, top_k=2, router_args={"seed": 1}).eval()
    assert not torch.equal(route(seeded, x, types).expert_index, routing.expert_index)
    assert torch.equal(routing.weight, torch.full_like(routing.weight, 0.5))


def test_hash_is_the_same_on_every_machine():
    router = build("hash", num_experts=8, top_k=1).router
    assert router(torch.zeros(12, 4)).expert_index.tolist() == [1, 4, 5, 2, 3, 0, 1, 0, 0, 1, 0, 2]


def test_random_draws_anew_in_training_by_the_generator():
    layer = build("random", num_experts=8)
    x = torch.randn(1, 200, 4, dtype=torch.float64)
    torch.manual_seed(3)
    first, second = route(layer, x), route(layer, x)
    assert not torch.equal(first.expert_index, second.expert_index)
    assert first.counts().min() > 25
    torch.manual_seed(3)
    assert torch.equal(route(layer, x).expert_index, first.expert_index)


def test_modality_sends_each_type_to_its_experts():
    layer = build(
        "modality", num_experts=5, top_k=2, router_args={"experts_of_type": [4, (0, 2), (3,)]}, normalize=True
    )
    x = torch.randn(1, 6, 4, dtype=torch.float64)
    types = torch.tensor([[0, 1, 2, 1, 0, 0]])
    expected = {0: {4: 1.0}, 1: {0: 0.5, 2: 0.5}, 2: {3: 1.0}}
    assert choices(route(layer, x, types)) == [expected[t] for t in types[0].tolist()]
    pairs = build("modality", num_experts=4, top_k=2, normalize=False)
    assert choices(route(pairs, x[:, :2], torch.tensor([[1, 0]]))) == [{2: 1.0, 3: 1.0}, {0: 1.0, 1: 1.0}]


def threshold_layer(theta, **args):
    layer = build("threshold", num_experts=2, top_k=1, router_args=args)
    with torch.no_grad():
        layer.router.threshold.copy_(torch.as_tensor(theta, dtype=torch.float64))
    return layer


def test_the_threshold_mask_is_hard_bit_for_bit_and_equal_in_training():
    layer = threshold_layer([0.3, -0.2], temperature=0.3, min_experts=0).float()
    x = torch.randn(1, 5000, 4)
    routing = route(layer, x)
    dense = torch.zeros(5000, 2)
    dense[routing.token_index, routing.expert_index] = routing.weight.detach()
    assert torch.equal(dense, ((x[0] @ layer.router.weight.T) > layer.router.threshold).float())
    still = route(layer.eval(), x)
    assert torch.equal(still.weight, routing.weight)
    assert torch.equal(still.dropped, routing.dropped)
    assert any(not token for token in choices(still)), "min_experts=0 lets tokens go without"


def test_the_threshold_learns_from_routed_and_unrouted_tokens():
    layer = threshold_layer([0.1, 0.0], temperature=0.5, min_experts=0)
    x = torch.randn(1, 40, 4, dtype=torch.float64)
    routing = route(layer, x)
    for t, e, w, dropped in list(
        zip(routing.token_index, routing.expert_index, routing.weight, routing.dropped, strict=True)
    ):
        (grad,) = torch.autograd.grad(w, layer.router.threshold, retain_graph=True)
        sig = sigmoid((routing.logits[t, e].item() - layer.router.threshold[e].item()) / 0.5)
        assert grad[e].item() == pytest.approx(-sig * (1 - sig) / 0.5), (t, dropped)
        assert grad[e] < 0
    assert routing.dropped.any()
    assert not routing.dropped.all()


@pytest.mark.parametrize(("theta", "expected"), [(-math.inf, {0: 1.0, 1: 1.0}), (math.inf, {0: 1.0})])
def test_infinite_thresholds_use_all_experts_or_the_least_number(theta, expected):
    layer = threshold_layer([theta, theta])
    x = torch.randn(1, 5, 4, dtype=torch.float64)
    assert choices(route(layer, x)) == [expected] * 5
    layer(x).sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_a_token_below_every_threshold_takes_the_nearest_expert():
    layer = threshold_layer([50.0, 40.0])
    routing = route(layer, torch.randn(1, 30, 4, dtype=torch.float64))
    margins = routing.logits - layer.router.threshold
    assert [list(token) for token in choices(routing)] == margins.argmax(-1)[:, None].tolist()
