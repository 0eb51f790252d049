"""What the choice between a big and a small expert learns from: its slope, a price, a target."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from score_threshold_layers import DIM, drawn, layer_of, routing_of, sigmoid
from torch import nn

import moezoo


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), theta=st.floats(0.05, 0.95), temperature=st.floats(0.05, 3.0))
def test_both_branches_carry_the_slope_of_the_choice(seed, theta, temperature):
    """d m / d theta = - sig (1 - sig) / T for routed and unrouted tokens, against a plain Python reference."""
    layer, (x, scores) = layer_of(threshold_init=theta, temperature=temperature), drawn(2, 4, seed)
    scores.requires_grad_()
    pull = torch.randn(2, 4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    (layer(x, scores=scores) * pull).sum().backward()
    theta = layer.router.threshold.item()
    big, small = (member(x) for member in layer.experts.members)
    gain = {True: (big * pull).sum(-1), False: (small * pull).sum(-1)}  # dL/dm of a routed token, -dL/dm of another
    d_theta, d_score = 0.0, torch.zeros(2, 4, dtype=torch.float64)
    for i in range(2):
        for j in range(4):
            soft = sigmoid((scores[i, j].item() - theta) / temperature)
            slope = soft * (1 - soft) / temperature
            routed = scores[i, j].item() >= theta
            d_m = gain[routed][i, j].item() * (1 if routed else -1)
            d_score[i, j] = d_m * slope
            d_theta -= d_m * slope
    torch.testing.assert_close(scores.grad, d_score, rtol=1e-9, atol=1e-12)
    assert layer.router.threshold_logit.grad.item() == pytest.approx(d_theta * theta * (1 - theta), rel=1e-6, abs=1e-12)
    assert (scores.grad != 0).all(), "routed and unrouted tokens both learn"


def test_the_temperature_sets_the_slope():
    slopes = []
    for temperature in (4.0, 1.0, 0.25):
        layer = layer_of(temperature=temperature)
        scores = torch.full((1, 1), 0.5, dtype=torch.float64, requires_grad=True)
        out = layer(torch.ones(1, 1, DIM, dtype=torch.float64), scores=scores).sum()
        (slope,) = torch.autograd.grad(out, scores)
        slopes.append((slope / out.detach()).item())
    assert slopes == pytest.approx([0.25 / 4, 0.25, 1.0])


@pytest.mark.parametrize("mode", ["learnable_threshold", "sigmoid_gate", "gumbel"])
@pytest.mark.parametrize("helps", [True, False])
def test_the_threshold_and_the_scores_move_towards_the_compute_that_helps(mode, helps):
    """Only the expert that helps is right: descent lowers theta and raises scores where it is the big one."""
    torch.manual_seed(0)
    x, scores = drawn(4, 8)
    right, wrong = nn.Identity(), nn.Identity()
    right.forward, wrong.forward = lambda x: x[:, :3], lambda x: -x[:, :3]
    layer = layer_of(mode, [right, wrong] if helps else [wrong, right], temperature=0.5)
    scores.requires_grad_()
    (layer(x, scores=scores) - x[..., :3]).square().sum().backward()
    # Expert outputs that are off the target push their own weight down, those on it are at rest: a slope of zero.
    assert (scores.grad.sum() < 0) == helps
    if layer.router.threshold_logit is not None:
        assert (layer.router.threshold_logit.grad > 0) == helps


def test_a_price_raises_the_threshold_and_a_target_pulls_from_both_sides():
    x, scores = drawn(4, 8)
    used = (scores >= 0.5).double().mean().item()
    for aux, sign in (({}, -1), ({"target": 0.0}, -1), ({"target": 1.0}, 1), ({"target": 0.0, "costs": (30, 1)}, -1)):
        layer = layer_of(aux=aux, temperature=0.5)
        given = scores.clone().requires_grad_()
        layer(x, scores=given)
        loss = moezoo.aux_loss(layer)
        cost = (30 * used + (1 - used)) / 30 if "costs" in aux else used
        expected = cost if "target" not in aux else (cost - aux["target"]) ** 2
        assert loss.item() == pytest.approx(expected, rel=1e-6)
        loss.backward()
        assert layer.router.threshold_logit.grad * sign > 0
        assert (given.grad * sign < 0).all(), "routed and unrouted tokens alike"


def test_with_sigmoid_gates_the_gradient_is_the_derivative():
    layer, (x, scores) = layer_of("sigmoid_gate", temperature=0.3).eval(), drawn(2, 3)
    assert torch.autograd.gradcheck(lambda s: layer(x, scores=s), scores.requires_grad_(), eps=1e-7)
    routing = routing_of(layer, x, scores)
    soft = torch.sigmoid((scores.detach().view(-1) - 0.5) / 0.3)
    torch.testing.assert_close(routing.weight, torch.where(soft >= 0.5, soft, 1 - soft))
    assert layer.router.threshold_logit is None, "its threshold is fixed"
