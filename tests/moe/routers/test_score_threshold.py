"""The router between a big and a small expert: hard forward, the same routes everywhere, modes, the dial."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_threshold_layers import DIM, drawn, layer_of, mask_of
from torch import nn

import moezoo
from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, prune_experts, set_progress

MODES = ("learnable_threshold", "sigmoid_gate", "gumbel", "top_fraction")
HARD = ("learnable_threshold", "gumbel", "top_fraction")
SAME_IN_TRAINING = ("learnable_threshold", "sigmoid_gate", "top_fraction")


@pytest.mark.parametrize("mode", HARD)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000), batch=st.integers(1, 4), tokens=st.integers(1, 7), training=st.booleans())
def test_the_forward_weights_are_exactly_one_and_the_output_is_the_chosen_experts(mode, seed, batch, tokens, training):
    torch.manual_seed(seed)
    layer, (x, scores) = layer_of(mode, temperature=0.3).train(training), drawn(batch, tokens, seed)
    seen = []
    handle = layer.router.register_forward_hook(lambda _m, _a, routing: seen.append(routing))
    y = layer(x, scores=scores)
    handle.remove()
    mask = (seen[0].expert_index == 0).view(batch, tokens)
    assert torch.equal(seen[0].weight, torch.ones_like(seen[0].weight))
    big, small = (member(x) for member in layer.experts.members)
    torch.testing.assert_close(y, torch.where(mask[..., None], big, small), rtol=1e-14, atol=1e-14)
    if mode == "learnable_threshold":
        assert torch.equal(mask, scores >= 0.5)
    assert torch.equal(seen[0].probs[:, 0], scores.reshape(-1))


@pytest.mark.parametrize("mode", SAME_IN_TRAINING)
def test_training_and_evaluation_take_the_same_routes(mode):
    layer, (x, scores) = layer_of(mode, threshold_init=0.4, temperature=0.1), drawn(8, 9)
    trained = mask_of(layer.train(), x, scores)
    assert torch.equal(trained, mask_of(layer.eval(), x, scores))
    assert torch.equal(trained, mask_of(layer_of("learnable_threshold", threshold_init=0.4).eval(), x, scores)) == (
        mode != "top_fraction"
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(trained, mask_of(layer.eval(), x, scores))


@pytest.mark.parametrize("path", ["auto", "static"])
def test_at_its_limits_the_layer_is_one_of_its_experts_bit_for_bit(path):
    layer, (x, scores) = layer_of(path=path), drawn()
    big, small = layer.experts.members
    for training in (True, False):
        layer.train(training)
        for limit, member in ((-math.inf, big), (math.inf, small), (-200.0, big), (200.0, small)):
            with torch.no_grad():
                layer.router.threshold_logit.fill_(limit)
            assert torch.equal(layer(x, scores=scores), member(x))
            assert 0 < layer.router.threshold < 1
        for budget, member in ((1.0, big), (0.0, small)):
            moezoo.set_budget(layer, budget)
            assert torch.equal(layer(x, scores=scores), member(x))
        moezoo.set_budget(layer, None)


def test_as_many_rows_reach_the_big_expert_as_the_mask_has_ones_and_an_idle_one_is_not_called():
    rows = {"big": [], "small": []}

    class Counting(nn.Linear):
        def forward(self, x):
            rows[self.name].append(len(x))
            return super().forward(x)

    big, small = Counting(DIM, 3), Counting(DIM, 3)
    big.name, small.name = "big", "small"
    layer, (x, scores) = layer_of(experts=[big, small]).eval(), drawn(6, 7)
    for threshold in (0.1, 0.5, 0.9):
        moezoo.set_threshold(layer, threshold)
        chosen = int((scores >= threshold).sum())
        assert int(mask_of(layer, x, scores).sum()) == chosen
        assert (rows["big"].pop(), rows["small"].pop()) == (chosen, 42 - chosen)
    rows = {"big": [], "small": []}
    moezoo.set_budget(layer, 1.0)
    layer(x, scores=scores)
    assert rows == {"big": [42], "small": []}


def test_all_tokens_of_one_expert_are_neither_gathered_nor_put_back():
    class Seeing(nn.Linear):
        def forward(self, x):
            seen.append(x.data_ptr())
            return super().forward(x)

    seen: list[int] = []
    layer, (x, scores) = layer_of(experts=[Seeing(DIM, 3), Seeing(DIM, 3)]).eval(), drawn()
    for budget in (0.0, 1.0):
        moezoo.set_budget(layer, budget)
        layer(x, scores=scores)
    assert seen == [x.data_ptr()] * 2


def test_empty_batches_and_single_tokens_pass():
    for mode in MODES:
        for shape in ((0, 5), (2, 0), (1, 1)):
            layer = layer_of(mode, aux={"target": 0.25, "scope": "sample"})
            x = torch.randn(*shape, DIM, dtype=torch.float64)
            y = layer(x, scores=torch.rand(shape, dtype=torch.float64))
            assert y.shape == (*shape, 3)
            (y.sum() + moezoo.aux_loss(layer)).backward()
            moezoo.set_budget(layer.eval(), 0.3)
            assert layer(x, scores=torch.rand(shape, dtype=torch.float64)).shape == (*shape, 3)


def test_binary_concrete_draws_each_token_with_the_odds_of_its_score():
    torch.manual_seed(0)
    layer, x = layer_of("gumbel", threshold_init=0.4), torch.zeros(1, 4000, DIM, dtype=torch.float64)
    for score in (0.1, 0.5, 0.98):
        given = torch.full((1, 4000), score, dtype=torch.float64)
        odds = score / (1 - score) / (0.4 / 0.6)
        assert mask_of(layer.train(), x, given).double().mean().item() == pytest.approx(odds / (1 + odds), abs=0.03)
        assert mask_of(layer.eval(), x, given).all() == (score >= 0.4), "without noise in evaluation"
    assert not torch.equal(mask_of(layer.train(), x, given * 0 + 0.5), mask_of(layer, x, given * 0 + 0.5))


@settings(max_examples=20, deadline=None)
@given(
    fraction=st.fractions(0, 1, max_denominator=1000),
    tokens=st.integers(1, 9),
    seed=st.integers(0, 1000),
    coarse=st.booleans(),
)
def test_top_fraction_and_the_dial_take_the_best_of_each_sample_ties_to_the_first(fraction, tokens, seed, coarse):
    x, scores = drawn(3, tokens, seed)
    scores = (scores * 3).floor() / 4 if coarse else scores
    wanted = torch.zeros(3, tokens, dtype=torch.bool)
    for i in range(3):
        best = sorted(range(tokens), key=lambda j: (-scores[i, j].item(), j))
        wanted[i, best[: math.ceil(fraction * tokens)]] = True
    assert torch.equal(mask_of(layer_of("top_fraction", fraction=float(fraction)), x, scores), wanted)
    layer = layer_of().eval()
    moezoo.set_budget(layer, float(fraction))
    assert torch.equal(mask_of(layer, x, scores), wanted)
    assert torch.equal(mask_of(layer, x[1:2], scores[1:2]), wanted[1:2]), "whatever the batch"


def test_its_own_scores_are_the_sigmoid_of_a_linear_map_and_given_ones_come_first():
    layer, (x, scores) = layer_of(own_score=True), drawn()
    with torch.no_grad():
        layer.router.weight.normal_(), layer.router.bias.fill_(0.3)
    own = torch.sigmoid(x @ layer.router.weight[0] + 0.3)
    assert torch.equal(mask_of(layer, x), own >= 0.5)
    assert torch.equal(mask_of(layer, x, scores), scores >= 0.5)
    with pytest.raises(InputError, match="own_score=True"):
        layer_of()(x)


def test_the_dial_turns_back_and_is_never_saved():
    model = nn.Sequential(nn.ModuleDict({"moe": layer_of()}))
    layer, (x, scores) = model[0]["moe"], drawn(4, 8)
    state, learned = layer.state_dict(), mask_of(layer, x, scores)
    moezoo.set_budget(model, 0.25)
    assert mask_of(layer, x, scores).sum(1).tolist() == [2] * 4
    moezoo.set_threshold(model, 0.9)
    assert torch.equal(mask_of(layer, x, scores), scores >= 0.9)
    moezoo.set_budget(model, 0.5)
    assert (layer.router.threshold_override, mask_of(layer, x, scores).sum().item()) == (None, 16)
    assert layer.state_dict().keys() == state.keys()
    assert copy.deepcopy(model)[0]["moe"].router.budget == 0.5
    layer.train()(x, scores=scores).sum().backward()
    assert layer.router.threshold_logit.grad is not None, "what does not decide now stays in the graph"
    moezoo.set_budget(model, None), moezoo.set_threshold(model, None)
    assert torch.equal(mask_of(layer, x, scores), learned)


@pytest.mark.parametrize("mode", ["learnable_threshold", "sigmoid_gate"])
def test_a_given_threshold_is_as_exact_as_the_scores(mode):
    layer, x = layer_of(mode, threshold_init=0.9), torch.zeros(1, 3, DIM, dtype=torch.float64)
    moezoo.set_threshold(layer, 0.9)
    scores = torch.tensor([[0.9 - 1e-12, 0.9, 0.9 + 1e-12]], dtype=torch.float64)
    for _ in range(2 if mode == "sigmoid_gate" else 1):  # given for good, there
        assert mask_of(layer, x, scores).tolist() == [[False, True, True]]
        moezoo.set_threshold(layer, None)


def test_schedules_follow_the_progress_and_a_model_never_told_is_at_their_end():
    layer, (x, scores) = layer_of(aux={"target": 0.2, "anneal": 0.5}, temperature=4.0, temperature_final=0.25), drawn()
    used = (scores >= 0.5).double().mean().item()
    assert layer.router.slope_temperature == 0.25
    for progress, temperature, target in ((0.0, 4.0, 1.0), (0.25, 2.0, 0.6), (0.5, 1.0, 0.2), (1, 0.25, 0.2)):
        set_progress(nn.Sequential(layer, nn.Linear(1, 1)), progress)
        assert layer.router.slope_temperature == pytest.approx(temperature)
        layer(x, scores=scores)
        assert moezoo.aux_loss(layer).item() == pytest.approx((used - target) ** 2, abs=1e-6)
    price = layer_of(aux={"anneal": 0.5})
    set_progress(price, 0.25)
    price(x, scores=scores)
    assert moezoo.aux_loss(price).item() == pytest.approx(used / 2)


def test_the_layer_compiles_in_one_graph_and_exports_with_scores_and_sources():
    torch._dynamo.reset()
    layer, (x, scores) = layer_of(aux={"target": 0.25, "scope": "sample"}), drawn()
    twin = copy.deepcopy(layer)
    compiled = torch.compile(twin, fullgraph=True, backend="aot_eager")
    for model, run in ((layer, layer), (twin, compiled)):
        (run(x, scores=scores).square().sum() + moezoo.aux_loss(model)).backward()
    for one, other in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad)

    class Cut(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x, scores):
            rows = x.flatten(0, 1) * 2
            return self.layer(
                x, scores=scores, sources=(lambda t: rows if t is None else rows.index_select(0, t), None)
            )

    module, batch = Cut().eval(), torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(module, (x, scores), dynamic_shapes=({0: batch}, {0: batch})).module()
    for inputs in (drawn(3, 5, 1), drawn(7, 5, 2), (x, scores * 0.1), (x, 1 - scores * 0.1)):
        torch.testing.assert_close(program(*inputs), module(*inputs))
    big, small = layer.experts.members
    torch.testing.assert_close(module(x, scores), torch.where((scores >= 0.5)[..., None], big(2 * x), small(x)))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: layer_of("learnable_treshold"), "Did you mean: learnable_threshold"),
        (lambda: layer_of(threshold_init=0.0), "threshold_init=0.0 .* above 0 and below 1"),
        (lambda: layer_of(threshold_init=1), "threshold_init=1 "),
        (lambda: layer_of(temperature=0.0), "temperature=0.0"),
        (lambda: layer_of(temperature_final=-1.0), "temperature_final=-1.0"),
        (lambda: layer_of(fraction=1.5), "fraction=1.5"),
        (lambda: layer_of(own_score="yes"), "own_score='yes'"),
        (lambda: layer_of(router="random_fraction", fraction=-0.1), "fraction=-0.1"),
        (lambda: layer_of(router="fixed_cells", cells=[1, 1]), "none of them twice"),
        (lambda: layer_of(router="fixed_cells", cells=[-1]), "cells=-1"),
        (lambda: MoELayer(4, num_experts=3, router="score_threshold"), "num_experts=3 .* two experts"),
        (lambda: MoELayer(4, num_experts=2, top_k=2, router="score_threshold"), "top_k=2 .* one expert"),
        (lambda: layer_of(aux={"taget": 0.2}), "no argument 'taget'.*Did you mean: target"),
        (lambda: layer_of(aux={"target": -1.0}), "target=-1.0"),
        (lambda: MoELayer(4, num_experts=2, aux_args={"compute_budget": {}}), "aux_args='compute_budget'"),
        (lambda: MoELayer(4, num_experts=2, aux_args=3), "aux_args=3"),
        (lambda: MoELayer(4, num_experts=2, out_dim=3), "out_dim=3 .*'mlp'"),
        (lambda: moezoo.set_budget(layer_of(), 1.1), "budget=1.1"),
        (lambda: moezoo.set_budget(nn.Linear(2, 2), 0.5), "Linear has no router"),
        (lambda: moezoo.set_threshold(layer_of(), 1.0), "threshold=1.0"),
        (lambda: moezoo.set_threshold(layer_of(router="random_fraction"), 0.5), "by scores"),
        (lambda: set_progress(layer_of(), 1.1), "fraction=1.1"),
        (
            lambda: prune_experts(MoELayer(4, num_experts=2, router="random_fraction"), keep=1, data=torch.randn(2, 4)),
            "RandomFractionRouter.*fixed rule",
        ),
    ],
)
def test_what_is_out_of_range_is_refused_by_name(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


def test_scores_that_do_not_fit_are_refused():
    layer, (x, scores) = layer_of(), drawn()
    for bad in (scores[:2], scores.view(-1), (scores * 10).long()):
        with pytest.raises(InputError, match="scores must be floating-point"):
            layer(x, scores=bad)
    with pytest.raises(InputError, match=r"scores hold .* must lie in \(0, 1\)"):
        layer(x, scores=scores * 3)
    with pytest.raises(InputError, match="takes no scores"):
        layer_of(router="random_fraction")(x, scores=scores)
    with pytest.raises(InputError, match="2 are needed"):
        layer(x, scores=scores, sources=[None])
    plain = MoELayer(DIM, num_experts=2).double()
    torch.testing.assert_close(plain(x, sources=[None, None]), plain(x))
