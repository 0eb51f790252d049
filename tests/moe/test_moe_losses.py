"""The auxiliary losses against float64 loops, their known values, and where their gradient flows."""

from __future__ import annotations

import math

import pytest
import torch
from moe_reference import naive_balance, naive_importance, naive_z

from moezoo.moe import Routing
from moezoo.moe.dispatch.capacity import apply_capacity
from moezoo.moe.losses import AUX_LOSSES, importance_loss, load_balancing_loss, router_z_loss


@pytest.mark.parametrize("normalize_by_k", [True, False])
@pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(7, 4, 1), (12, 5, 2), (3, 8, 8), (1, 1, 1)])
def test_load_balancing_equals_the_loop(num_tokens, num_experts, top_k, normalize_by_k):
    logits = 2 * torch.randn(num_tokens, num_experts, dtype=torch.float64)
    loss = load_balancing_loss(Routing.from_logits(logits, top_k), normalize_by_k)
    assert loss.item() == pytest.approx(naive_balance(logits, top_k, normalize_by_k), rel=1e-12)


@pytest.mark.parametrize("num_experts", [2, 4, 8])
def test_even_load_gives_one_and_collapse_gives_the_number_of_experts(num_experts):
    even = 50 * torch.eye(num_experts, dtype=torch.float64).repeat(3, 1)
    collapsed = even[:1].expand(9, -1)
    assert load_balancing_loss(Routing.from_logits(even, 1)).item() == pytest.approx(1)
    assert load_balancing_loss(Routing.from_logits(collapsed, 1)).item() == pytest.approx(num_experts)


def test_the_two_conventions_differ_by_k():
    routing = Routing.from_logits(torch.randn(10, 6, dtype=torch.float64), 3)
    assert load_balancing_loss(routing, normalize_by_k=False).item() == pytest.approx(
        3 * load_balancing_loss(routing).item()
    )


def test_load_balancing_counts_dropped_assignments():
    routing = Routing.from_logits(torch.randn(10, 4), 2)
    torch.testing.assert_close(load_balancing_loss(apply_capacity(routing, 0.25)), load_balancing_loss(routing))


def test_load_balancing_gradient_flows_through_the_probabilities_only():
    logits = torch.randn(9, 4, dtype=torch.float64, requires_grad=True)
    routing = Routing.from_logits(logits, 2)
    f = torch.bincount(routing.expert_index, minlength=4).double() / 18
    (expected,) = torch.autograd.grad(4 * (f * logits.softmax(-1).mean(0)).sum(), logits)
    (grad,) = torch.autograd.grad(load_balancing_loss(routing), logits)
    torch.testing.assert_close(grad, expected)
    assert grad.abs().sum() > 0


def test_importance_uses_clean_logits_and_the_population_standard_deviation():
    clean = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    routing = Routing.from_logits(clean + 3 * torch.randn(11, 8), 2, clean_logits_TE=clean)
    loss = importance_loss(routing)
    assert loss.item() == pytest.approx(naive_importance(clean), rel=1e-12)
    torch.testing.assert_close(
        loss, clean.softmax(-1).sum(0).var(unbiased=False) / clean.softmax(-1).sum(0).mean() ** 2
    )
    assert torch.autograd.grad(loss, clean)[0].abs().sum() > 0
    assert importance_loss(Routing.from_logits(torch.zeros(5, 3), 1)).item() == pytest.approx(0, abs=1e-9)


def test_z_loss_uses_clean_logits():
    clean = torch.randn(11, 8, dtype=torch.float64, requires_grad=True)
    loss = router_z_loss(Routing.from_logits(clean + torch.randn(11, 8), 2, clean_logits_TE=clean))
    assert loss.item() == pytest.approx(naive_z(clean), rel=1e-12)
    assert torch.autograd.grad(loss, clean)[0].abs().sum() > 0
    assert router_z_loss(Routing.from_logits(torch.zeros(5, 6), 1)).item() == pytest.approx(math.log(6) ** 2)


def test_z_loss_shifts_the_logsumexp_exactly():
    logits = torch.randn(1, 6, dtype=torch.float64)
    lse = math.sqrt(router_z_loss(Routing.from_logits(logits, 1)).item())
    shifted = router_z_loss(Routing.from_logits(logits + 5, 1)).item()
    assert shifted == pytest.approx((lse + 5) ** 2)


@pytest.mark.parametrize("kind", AUX_LOSSES)
def test_losses_are_float32_scalars_finite_for_no_tokens_and_for_half_precision(kind):
    for logits in (torch.zeros(0, 4), torch.randn(6, 4, dtype=torch.bfloat16)):
        loss = AUX_LOSSES[kind](Routing.from_logits(logits, 2))
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert loss.isfinite()
