"""Each router against its formula, written out token by token in plain Python floats."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from moe_reference import naive_softmax
from router_cases import NAMES, build, choices, route, types_for

Weights = list[dict[int, float]]
BATCH, TOKENS, E, K = 3, 6, 4, 2


def matrix(tensor):
    return tensor.detach().double().tolist()


def product(rows, token):
    return [sum(w * x for w, x in zip(row, token, strict=True)) for row in rows]


def best(scores, k):
    return sorted(range(len(scores)), key=lambda e: (-scores[e], e))[:k]


def unit(vector):
    norm = math.sqrt(sum(v * v for v in vector))
    return [v / norm for v in vector]


def sigmoid(z):
    return 1 / (1 + math.exp(-z))


def top_k_of(probs, normalize):
    chosen = best(probs, K)
    total = sum(probs[e] for e in chosen) if normalize else 1.0
    return {e: probs[e] / total for e in chosen}


def per_token(rule):
    return lambda router, samples: [rule(router, token) for sample in samples for token in sample]


def linear(normalize):
    return per_token(lambda r, x: top_k_of(naive_softmax(product(matrix(r.weight), x)), normalize))


@per_token
def cosine(router, token):
    query = unit(product(matrix(router.projection), token))
    scale = min(math.exp(router.log_scale.item()), 100)
    logits = [scale * sum(q * k for q, k in zip(query, unit(key), strict=True)) for key in matrix(router.keys)]
    return top_k_of(naive_softmax(logits), True)


@per_token
def attentive(router, token):
    logits = product(matrix(router.keys), product(matrix(router.query), token))
    return top_k_of(naive_softmax([z / math.sqrt(3) for z in logits]), True)


@per_token
def multihead(router, token):
    heads = [naive_softmax(product(rows, token)) for rows in matrix(router.weight)]
    return top_k_of([sum(head[e] for head in heads) / len(heads) for e in range(E)], True)


@per_token
def dense_softmax(router, token):
    probs = naive_softmax([z / 0.7 for z in product(matrix(router.weight), token)])
    return dict(enumerate(probs))


@per_token
def sigmoid_bias(router, token):
    scores = [sigmoid(z) for z in product(matrix(router.weight), token)]
    chosen = best([s + b for s, b in zip(scores, router.bias.tolist(), strict=True)], K)
    return {e: 1.5 * scores[e] / sum(scores[i] for i in chosen) for e in chosen}


@per_token
def soft(router, token):
    query = [v / math.sqrt(sum(u * u for u in token) + 1e-6) for v in token]
    columns = [row for expert in matrix(router.phi.permute(1, 2, 0)) for row in expert]
    keys = [[v / math.sqrt(sum(u * u for u in row) + 1e-6) for v in row] for row in columns]
    probs = naive_softmax([router.scale.item() * z for z in product(keys, query)])
    return {e: sum(probs[e * 2 : e * 2 + 2]) for e in range(E)}


def layer_norm(vector, norm):
    mean = sum(vector) / len(vector)
    std = math.sqrt(sum((v - mean) ** 2 for v in vector) / len(vector) + norm.eps)
    return [(v - mean) / std * w + b for v, w, b in zip(vector, matrix(norm.weight), matrix(norm.bias), strict=True)]


@per_token
def sphero(router, token):
    key = [k + b for k, b in zip(product(matrix(router.key.weight), token), matrix(router.key.bias), strict=True)]
    columns = [row for expert in matrix(router.phi.permute(1, 2, 0)) for row in expert]
    normed = [layer_norm(row, router.query_norm) for row in columns]
    queries = [[v / math.sqrt(sum(u * u for u in row) + 1e-6) for v in row] for row in normed]
    probs = naive_softmax([z / math.exp(router.log_temperature.item()) for z in product(queries, key)])
    return {e: sum(probs[e * 2 : e * 2 + 2]) for e in range(E)}


@per_token
def relu(router, token):
    return {e: z for e, z in enumerate(product(matrix(router.weight), token)) if z > 0}


@per_token
def threshold(router, token):
    scores = product(matrix(router.weight), token)
    margins = [s - t for s, t in zip(scores, router.threshold.tolist(), strict=True)]
    chosen = {e for e in range(E) if margins[e] > 0} | set(best(margins, K))
    return {e: 1 / len(chosen) for e in chosen}


@per_token
def top_p(router, token):
    probs = naive_softmax(product(matrix(router.weight), token))
    order = best(probs, E)
    size = next(n for n in range(1, E + 1) if sum(probs[e] for e in order[:n]) >= 0.5)
    chosen = order[: max(size, K)]
    return {e: probs[e] / sum(probs[i] for i in chosen) for e in chosen}


def per_image(router, samples):
    out: Weights = []
    for sample in samples:
        mean = [sum(column) / len(sample) for column in zip(*sample, strict=True)]
        out += [top_k_of(naive_softmax(product(matrix(router.weight), mean)), True)] * len(sample)
    return out


def expert_choice(router, samples):
    out: Weights = []
    for sample in samples:
        probs = [naive_softmax(product(matrix(router.weight), token)) for token in sample]
        picked = [best([p[e] for p in probs], math.ceil(len(sample) * K / E)) for e in range(E)]
        out += [{e: p[e] for e in range(E) if t in picked[e]} for t, p in enumerate(probs)]
    return out


REFERENCES: dict[str, Callable[..., Weights]] = {
    "attentive": attentive,
    "bpr_topk": linear(False),
    "cosine": cosine,
    "dense_softmax": dense_softmax,
    "expert_choice": expert_choice,
    "multihead": multihead,
    "noisy_topk": linear(False),
    "per_image": per_image,
    "relu": relu,
    "shazeer_topk": linear(True),
    "sigmoid_bias": sigmoid_bias,
    "soft": soft,
    "softmax_topk": linear(True),
    "sphero": sphero,
    "threshold": threshold,
    "top_p": top_p,
}


@pytest.mark.parametrize("name", sorted(REFERENCES))
@pytest.mark.parametrize("seed", range(5))
def test_choice_and_weights_equal_the_formula_in_evaluation(name, seed):
    torch.manual_seed(seed)
    layer = build(name, num_experts=E, top_k=K).eval()
    if name == "sigmoid_bias":
        layer.router.bias.copy_(torch.randn(E))
    x = torch.randn(BATCH, TOKENS, 4, dtype=torch.float64)
    expected = REFERENCES[name](layer.router, x.tolist())
    actual = choices(route(layer, x))
    assert [set(token) for token in actual] == [set(token) for token in expected]
    for ours, theirs in zip(actual, expected, strict=True):
        for e, weight in theirs.items():
            assert ours[e] == pytest.approx(weight, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_group_limited_keeps_the_groups_whose_two_best_sum_highest(seed):
    torch.manual_seed(seed)
    args = {"num_groups": 4, "top_groups": 2, "route_scale": 2.5}
    layer = build("group_limited", num_experts=12, top_k=4, router_args=args).eval()
    layer.router.bias.copy_(torch.randn(12) / 4)
    x = torch.randn(1, 20, 4, dtype=torch.float64)
    actual = choices(route(layer, x))
    for token, ours in zip(x[0].tolist(), actual, strict=True):
        scores = [sigmoid(z) for z in product(matrix(layer.router.weight), token)]
        biased = [s + b for s, b in zip(scores, layer.router.bias.tolist(), strict=True)]
        groups = [sum(sorted(biased[g * 3 : g * 3 + 3])[-2:]) for g in range(4)]
        kept = best(groups, 2)
        chosen = best([b if e // 3 in kept else -math.inf for e, b in enumerate(biased)], 4)
        total = sum(scores[e] for e in chosen)
        assert ours == pytest.approx({e: 2.5 * scores[e] / total for e in chosen})


def test_group_limited_ignores_excluded_groups_even_where_every_biased_score_is_negative():
    layer = build("group_limited", num_experts=4, top_k=2, router_args={"num_groups": 2}).eval()
    layer.router.bias.copy_(torch.tensor([-5.0, -5.0, -2.0, -3.0]))
    assert [list(token) for token in choices(route(layer, torch.zeros(1, 2, 4, dtype=torch.float64)))] == [[2, 3]] * 2


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


def test_every_router_has_a_reference_or_a_test_of_its_own():
    own = {
        "complexity",
        "complexity_in_order",
        "fixed_cells",
        "group_limited",
        "hash",
        "hash_types",
        "hierarchical",
        "mlp_gate",
        "mlp_gate_skipping",
        "modality",
        "random",
        "random_fraction",
        "score_threshold",
    }
    assert set(NAMES) - set(REFERENCES) == own
