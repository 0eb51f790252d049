"""What every auxiliary loss promises: a float32 scalar, zero without tokens, gradients where the papers have them."""

from __future__ import annotations

import dataclasses
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moezoo.errors import ConfigError
from moezoo.moe import MoELayer, Routing, aux_loss
from moezoo.moe import losses as L
from moezoo.moe.dispatch.capacity import apply_capacity

LOSSES = {
    **L.AUX_LOSSES,
    "global_entropy threshold": partial(L.global_entropy_loss, threshold=0.9),
    "load_variance target": partial(L.load_variance_loss, target=0.4),
    "load noise": partial(L.load_loss, noise_std=0.7),
    "load_balancing by tokens": partial(L.load_balancing_loss, normalize_by_k=False),
    "compute_budget price": L.compute_budget_loss,
    "compute_budget target": partial(L.compute_budget_loss, target=0.3, costs=[4, 2, 1, 1]),
    "compute_budget sample": partial(L.compute_budget_loss, target=0.3, scope="sample"),
    "compute_budget probs": partial(L.compute_budget_loss, target=0.3, gradient="probs"),
}
STRAIGHT_THROUGH = {"kl_counts", *(name for name in LOSSES if name.startswith("compute_budget"))}
each = pytest.mark.parametrize("name", LOSSES)
NEGATIVE = {"global_entropy"}


@each
def test_a_float32_scalar_from_any_router_precision(name):
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        loss = LOSSES[name](Routing.from_logits(torch.randn(6, 4, dtype=dtype), 2))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()


@each
def test_zero_with_zero_gradients_for_no_tokens(name):
    weight = torch.randn(3, 4, requires_grad=True)
    loss = LOSSES[name](Routing.from_logits(torch.zeros(0, 3) @ weight, 2))
    assert loss.item() == 0
    (grad,) = torch.autograd.grad(loss, weight)
    assert torch.equal(grad, torch.zeros_like(grad))


@each
def test_finite_with_finite_gradients_where_probabilities_underflow(name):
    logits = (1e4 * torch.eye(4)).repeat(2, 1)[:6].requires_grad_()
    loss = LOSSES[name](Routing.from_logits(logits, 1))
    assert loss.isfinite()
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@each
def test_nothing_but_the_logits_decides_when_everything_is_chosen_alike(name):
    """Equal logits: finite too, and no gradient pulls an expert that is like the others off the centre."""
    logits = torch.zeros(8, 4, dtype=torch.float64, requires_grad=True)
    loss = LOSSES[name](Routing.from_logits(logits, 4))
    assert torch.autograd.grad(loss, logits)[0].isfinite().all()


@each
def test_dropped_assignments_count(name):
    routing = Routing.from_logits(torch.randn(10, 4), 2)
    limited = apply_capacity(routing, 0.25)
    assert limited.dropped.any()
    torch.testing.assert_close(LOSSES[name](limited), LOSSES[name](routing))


@each
def test_places_that_were_never_chosen_count_nothing(name, noisy, with_places):
    routing = noisy(9, 4, 2)
    torch.testing.assert_close(LOSSES[name](with_places(routing)), LOSSES[name](routing))


@each
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), num_tokens=st.integers(1, 12), top_k=st.integers(1, 4))
def test_the_order_of_tokens_and_the_names_of_experts_do_not_matter(name, seed, num_tokens, top_k):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_tokens, 4, dtype=torch.float64, generator=generator)
    loss = LOSSES[name](Routing.from_logits(logits, top_k))
    assert loss >= (-10 if name in NEGATIVE else 0)
    tokens = torch.randperm(num_tokens, generator=generator)
    torch.testing.assert_close(LOSSES[name](Routing.from_logits(logits[tokens], top_k)), loss)
    if not name.startswith("compute_budget"):  # prices have names
        experts = torch.randperm(4, generator=generator)
        torch.testing.assert_close(LOSSES[name](Routing.from_logits(logits[:, experts], top_k)), loss)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - STRAIGHT_THROUGH))
def test_the_gradient_is_the_derivative(name):
    noise = 0.3 * torch.randn(5, 4, dtype=torch.float64)

    def loss(clean):
        return LOSSES[name](Routing.from_logits(clean + noise, 2, clean_logits_TE=clean))

    clean = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss, clean)


@pytest.mark.parametrize("kind", L.AUX_LOSSES)
def test_every_kind_works_as_a_weight_of_a_layer_under_autocast(kind):
    layer = MoELayer(8, num_experts=4, top_k=2, aux_weights={kind: 2.0}, router_args={"noise_std": 0.5})
    seen = []
    layer.router.register_forward_hook(lambda _m, _a, routing: seen.append(routing))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        layer(torch.randn(7, 8))
        loss = aux_loss(layer)
    torch.testing.assert_close(loss, 2 * L.AUX_LOSSES[kind](seen[0]))
    loss.backward()
    assert layer.router.weight.grad.abs().max() > 0


def test_exported_losses_are_functions():
    assert all(callable(getattr(L, name)) for name in L.__all__ if name.endswith("_loss"))
    tables = ("AUX_LOSSES", "OUTPUT_LOSSES")
    exported = {getattr(L, name) for name in L.__all__ if name not in tables}
    assert {*L.AUX_LOSSES.values(), *L.OUTPUT_LOSSES.values()} <= exported


@pytest.mark.parametrize(
    ("call", "argument"),
    [
        (partial(L.z_loss, kind="logsumexq"), "Did you mean: logsumexp"),
        (partial(L.kl_balance_loss, kind="sof"), "Did you mean: soft"),
        (partial(L.global_entropy_loss, threshold=-1.0), "threshold=-1.0"),
        (partial(L.load_variance_loss, target=1.5), "target=1.5"),
        (partial(L.load_loss, noise_std=0.0), "noise_std=0.0"),
        (partial(L.compute_budget_loss, target=-0.5), "target=-0.5"),
        (partial(L.compute_budget_loss, costs=[1.0]), "costs=.*3 numbers"),
        (partial(L.compute_budget_loss, costs=[0.0, 0, 0]), "costs=.*above 0"),
        (partial(L.compute_budget_loss, costs=[1.0, -1.0, 0]), "costs\\[1\\]"),
        (partial(L.compute_budget_loss, gradient="prob"), "Did you mean: probs"),
        (partial(L.compute_budget_loss, scope="samples"), "Did you mean: sample"),
        (partial(L.compute_budget_loss, anneal=1.5), "anneal=1.5"),
        (partial(L.compute_budget_loss, progress=-0.1), "progress=-0.1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(call, argument):
    with pytest.raises(ConfigError, match=argument):
        call(Routing.from_logits(torch.zeros(4, 3), 1))


def test_losses_of_a_detached_routing_have_no_graph():
    routing = Routing.from_logits(torch.randn(4, 3, requires_grad=True), 2)
    assert dataclasses.is_dataclass(routing)
    assert not any(L.AUX_LOSSES[kind](routing.detach()).requires_grad for kind in L.AUX_LOSSES)
