"""Each router against its formula, written out token by token in plain Python floats."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from moe_reference import best, matrix, naive_softmax, product, sigmoid
from router_cases import NAMES, build, choices, route

Weights = list[dict[int, float]]
BATCH, TOKENS, E, K = 3, 6, 4, 2


def unit(vector):
    norm = math.sqrt(sum(v * v for v in vector))
    return [v / norm for v in vector]


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
