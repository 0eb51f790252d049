"""Each loss against a float64 loop of its own, and the traps in which implementations differ."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from losses_reference import (
    naive_cv2,
    naive_entropy,
    naive_kl_to_even,
    naive_load,
    naive_mean_probs,
    naive_used,
)
from moe_reference import naive_softmax

from moezoo.errors import ConfigError, InputError
from moezoo.moe import MoELayer, Routing, aux_loss
from moezoo.moe import losses as L

SIZES = pytest.mark.parametrize(("num_tokens", "num_experts", "top_k"), [(7, 4, 1), (12, 5, 2), (3, 8, 8), (1, 1, 1)])


def even(num_experts):
    """As many tokens as experts, each sure of its own."""
    return Routing.from_logits(800 * torch.eye(num_experts, dtype=torch.float64), 1)


def collapsed(num_experts, num_tokens=9):
    return Routing.from_logits(800 * torch.eye(num_experts, dtype=torch.float64)[:1].expand(num_tokens, -1), 1)


def undecided(num_experts, top_k=1):
    return Routing.from_logits(torch.zeros(num_experts, num_experts, dtype=torch.float64), top_k)


# ------------------------------------------------------------------------------------------------ load balancing


def test_balance_averages_layers_and_never_joins_their_tokens():
    """Two layers collapsed on different experts are both bad; their tokens together would look half as bad."""
    model = torch.nn.ModuleList(
        MoELayer(4, num_experts=4, aux_weights={"load_balancing": 1.0}).double() for _ in range(2)
    )
    for expert, layer in enumerate(model):
        with torch.no_grad():
            layer.router.weight.copy_(800 * torch.eye(4)[expert][:, None])
        layer(torch.ones(6, 4, dtype=torch.float64))
    assert aux_loss(model).item() == pytest.approx(4)
    joined = Routing.from_logits(800 * torch.eye(4, dtype=torch.float64)[:2].repeat(3, 1), 1)
    assert L.load_balancing_loss(joined).item() == pytest.approx(2)


def test_balance_can_be_below_one():
    """Choices and probabilities can go against each other, so that one is no lower bound."""
    logits = torch.tensor([[0.1, 0.0], [0.1, 0.0], [0.0, 9.0]], dtype=torch.float64)
    assert L.load_balancing_loss(Routing.from_logits(logits, 1)).item() < 1


def test_balance_normalises_by_the_choices_made_where_their_number_varies():
    mask = torch.tensor([[True, True, False], [True, False, False]])
    logits = torch.randn(2, 3, dtype=torch.float64)
    routing = Routing.from_mask(mask, mask.double(), logits)
    p = naive_mean_probs(logits)
    assert L.load_balancing_loss(routing).item() == pytest.approx(3 * (2 / 3 * p[0] + 1 / 3 * p[1]))
    assert L.load_balancing_loss(routing, normalize_by_k=False).item() == pytest.approx(3 * (p[0] + 0.5 * p[1]))


def test_balance_takes_the_softmax_of_the_logits_once():
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0]], dtype=torch.float64)
    assert L.load_balancing_loss(Routing.from_logits(logits, 1)).item() == pytest.approx(
        4 * naive_softmax([3.0, 1.0, 0.0, -1.0])[0]
    )


# ------------------------------------------------------------------------------------------- importance and load


def test_importance_is_the_population_variation(noisy):
    routing = noisy(11, 8, 2)
    shares = naive_mean_probs(routing.clean_logits)
    assert L.importance_loss(routing).item() == pytest.approx(naive_cv2(shares), rel=1e-12)
    importance = routing.clean_logits.softmax(-1).sum(0)
    unbiased = importance.var() / importance.mean() ** 2
    assert (unbiased / L.importance_loss(routing)).item() == pytest.approx(8 / 7)


@SIZES
@pytest.mark.parametrize("noise_std", [0.125, 0.5, 2.0])
def test_load_equals_the_loop(noisy, num_tokens, num_experts, top_k, noise_std):
    routing = noisy(num_tokens, num_experts, top_k)
    expected = naive_load(routing.clean_logits, routing.logits, top_k, noise_std)
    assert L.load_loss(routing, noise_std=noise_std).item() == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_load_has_clean_logits_inside_phi_and_noisy_ones_in_the_threshold(noisy):
    routing = noisy(12, 5, 2)
    loss = L.load_loss(routing, noise_std=0.5).item()
    for clean, logits in ((routing.logits, routing.logits), (routing.clean_logits, routing.clean_logits)):
        assert loss != pytest.approx(naive_load(clean, logits, 2, 0.5), rel=1e-3)


def test_load_takes_the_routers_noise_and_without_any_one_over_the_experts(noisy):
    routing = noisy(12, 5, 2)
    assert L.load_loss(routing).item() == L.load_loss(routing, noise_std=0.2).item()
    own = dataclasses.replace(routing, noise_std=torch.tensor(0.7, dtype=torch.float64))
    assert L.load_loss(own).item() == pytest.approx(L.load_loss(routing, noise_std=0.7).item())
    assert L.load_loss(own, noise_std=0.3).item() == L.load_loss(routing, noise_std=0.3).item()
    each = dataclasses.replace(routing, noise_std=torch.full((12, 5), 0.7, dtype=torch.float64))
    assert L.load_loss(each).item() == pytest.approx(L.load_loss(own).item())


def test_load_gradient_flows_through_the_clean_and_the_noisy_logits():
    clean = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    logits = (clean + torch.randn(6, 4)).detach().requires_grad_()
    loss = L.load_loss(Routing.from_logits(logits, 2, clean_logits_TE=clean), noise_std=0.5)
    for grad in torch.autograd.grad(loss, (clean, logits)):
        assert grad.abs().max() > 0


def test_load_of_a_token_without_experts_wins_nothing():
    mask = torch.tensor([[True, False, False], [False, False, False]])
    clean = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    loss = L.load_loss(Routing.from_mask(mask, mask.double(), clean), noise_std=0.5)
    only = clean[0].detach().tolist()
    wins = [0.5 * (1 + math.erf((z - only[0]) / 0.5 / math.sqrt(2))) for z in only]
    assert loss.item() == pytest.approx(naive_cv2(wins))
    assert torch.autograd.grad(loss, clean)[0].isfinite().all()


def test_even_and_collapsed_importance():
    for loss in (L.importance_loss, L.load_loss):
        assert loss(even(8)).item() == pytest.approx(0, abs=1e-12)
        assert loss(collapsed(8)).item() == pytest.approx(7)


# ----------------------------------------------------------------------------------------------------- z-losses


def test_z_loss_by_name(noisy):
    routing = noisy(9, 4, 2)
    assert torch.equal(L.z_loss(routing), L.router_z_loss(routing))
    assert torch.equal(L.z_loss(routing, kind="prob_sq"), L.prob_sq_loss(routing))


def test_z_loss_of_zeros_is_the_squared_logarithm_and_grows_with_a_shift():
    assert L.router_z_loss(undecided(6)).item() == pytest.approx(math.log(6) ** 2)
    shifted = Routing.from_logits(torch.full((5, 6), 3.0, dtype=torch.float64), 1)
    assert L.router_z_loss(shifted).item() == pytest.approx((math.log(6) + 3) ** 2)


def test_prob_sq_equals_the_loop_and_ignores_a_shift(noisy):
    routing = noisy(9, 5, 2)
    p = naive_mean_probs(routing.logits)
    assert L.prob_sq_loss(routing).item() == pytest.approx(5 * sum(v**2 for v in p) / 5, rel=1e-12)
    shifted = Routing.from_logits(routing.logits + 100, 2)
    assert L.prob_sq_loss(shifted).item() == pytest.approx(L.prob_sq_loss(routing).item())
    assert L.prob_sq_loss(undecided(6)).item() == pytest.approx(1 / 6)
    assert L.prob_sq_loss(collapsed(6)).item() == pytest.approx(1)


# ------------------------------------------------------------------------------------------- KL and the entropies


@SIZES
def test_kl_and_entropies_equal_the_loops(noisy, num_tokens, num_experts, top_k):
    routing = noisy(num_tokens, num_experts, top_k)
    p = naive_mean_probs(routing.logits)
    shares = [v / top_k for v in naive_used(routing.logits, top_k)]
    local = sum(naive_entropy(naive_softmax(row)) for row in routing.logits.tolist()) / num_tokens
    approx = lambda value: pytest.approx(value, rel=1e-10, abs=1e-12)  # noqa: E731
    assert L.kl_balance_loss(routing).item() == approx(naive_kl_to_even(p))
    assert L.kl_balance_loss(routing).item() == approx(math.log(num_experts) - naive_entropy(p))
    assert L.kl_balance_loss(routing, kind="hard").item() == approx(naive_kl_to_even(shares))
    assert L.local_entropy_loss(routing).item() == approx(local)
    assert L.global_entropy_loss(routing).item() == approx(-naive_entropy(p))
    for threshold in (0.0, 0.5, 5.0):
        expected = max(0.0, threshold - naive_entropy(p))
        assert L.global_entropy_loss(routing, threshold=threshold).item() == approx(expected)


def test_known_values_of_kl_and_entropies():
    log = math.log(6)
    for kind in ("soft", "hard"):
        assert L.kl_balance_loss(even(6), kind=kind).item() == pytest.approx(0, abs=1e-12)
        assert L.kl_balance_loss(collapsed(6), kind=kind).item() == pytest.approx(log)
    assert L.kl_balance_loss(undecided(6)).item() == pytest.approx(0, abs=1e-12)
    assert L.kl_balance_loss(undecided(6), kind="hard").item() == pytest.approx(log), "ties all go to expert 0"
    for routing, local, whole in ((even(6), 0, -log), (collapsed(6), 0, 0), (undecided(6), log, -log)):
        assert L.local_entropy_loss(routing).item() == pytest.approx(local, abs=1e-12)
        assert L.global_entropy_loss(routing).item() == pytest.approx(whole, abs=1e-12)


def test_hard_kl_pushes_probability_from_busy_to_idle_experts():
    logits = torch.tensor([[2.0, 1.0, 0.0]] * 4 + [[1.0, 2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = L.kl_balance_loss(Routing.from_logits(logits, 1), kind="hard")
    (grad,) = torch.autograd.grad(loss, logits)
    slopes = torch.tensor([math.log(4 / 5), math.log(1 / 5), math.log(0.5 / 5)], dtype=torch.float64)
    (expected,) = torch.autograd.grad((slopes * logits.softmax(-1).mean(0)).sum(), logits)
    torch.testing.assert_close(grad, expected)
    assert (grad[:, 0] > 0).all()
    assert (grad[:, 2] < 0).all()


def test_a_threshold_that_is_met_leaves_the_router_alone():
    logits = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    loss = L.global_entropy_loss(Routing.from_logits(logits, 1), threshold=0.1)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, logits)[0].abs().max() == 0


# ------------------------------------------------------------------------------------------------------ variance


@pytest.mark.parametrize("target", [None, 0.0, 0.33, 1.0])
def test_variance_equals_the_loop(noisy, target):
    routing = noisy(9, 3, 1)
    p = naive_mean_probs(routing.logits)
    wanted = 1 / 3 if target is None else target
    expected = sum((v - wanted) ** 2 for v in p) / 3
    assert L.load_variance_loss(routing, target=target).item() == pytest.approx(expected, rel=1e-12)


def test_variance_is_the_populations_and_one_expert_has_none():
    assert L.load_variance_loss(collapsed(3)).item() == pytest.approx((4 / 9 + 1 / 9 + 1 / 9) / 3)
    assert L.load_variance_loss(even(3)).item() == pytest.approx(0, abs=1e-12)
    assert L.load_variance_loss(even(1)).item() == 0


# -------------------------------------------------------------------------------------------------------- budget


def test_budget_is_the_squared_distance_of_the_keep_ratio(noisy):
    routing = noisy(10, 2, 1)
    ratio = naive_used(routing.logits, 1)[0]
    assert 0 < ratio < 1
    assert L.compute_budget_loss(routing).item() == pytest.approx(ratio)
    assert L.compute_budget_loss(routing, target=0.25).item() == pytest.approx((ratio - 0.25) ** 2)
    assert L.compute_budget_loss(routing, target=ratio).item() == pytest.approx(0, abs=1e-20)


def test_budget_prices_each_assignment_in_units_of_the_dearest_expert(noisy):
    routing = noisy(10, 3, 2)
    used = naive_used(routing.logits, 2)
    spent = (600 * used[0] + 20 * used[1] + 300 * used[2]) / 600
    assert L.compute_budget_loss(routing, costs=[600, 20, 300]).item() == pytest.approx(spent)
    assert L.compute_budget_loss(routing, costs=(1.0, 1.0, 1.0)).item() == pytest.approx(2), "two experts per token"
    assert L.compute_budget_loss(routing, target=1.5, costs=[600, 20, 300]).item() == pytest.approx((spent - 1.5) ** 2)


@pytest.mark.parametrize(("target", "sign"), [(0.0, 1), (1.0, -1)])
def test_budget_moves_a_threshold_for_routed_and_unrouted_tokens_alike(target, sign):
    scores = torch.tensor([[0.9], [0.2], [0.6]], dtype=torch.float64, requires_grad=True)
    soft = torch.sigmoid(scores - 0.5)
    hard = soft.detach() > 0.5
    routing = Routing.from_mask(hard, hard.double() + (soft - soft.detach()), scores)
    loss = L.compute_budget_loss(routing, target=target)
    assert loss.item() == pytest.approx((2 / 3 - target) ** 2)
    (grad,) = torch.autograd.grad(loss, scores)
    expected = 2 * (2 / 3 - target) / 3 * (soft * (1 - soft)).detach()
    torch.testing.assert_close(grad, expected)
    assert (sign * grad > 0).all()


def test_budget_through_probabilities_reaches_tokens_that_chose_another_expert():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    routing = Routing.from_logits(logits, 1, normalize=False)
    (weights,) = torch.autograd.grad(L.compute_budget_loss(routing), logits, retain_graph=True)
    assert weights[0].abs().max() == 0
    (probs,) = torch.autograd.grad(L.compute_budget_loss(routing, gradient="probs"), logits)
    (expected,) = torch.autograd.grad(logits.softmax(-1).mean(0)[0], logits)
    torch.testing.assert_close(probs, expected)
    assert (probs[:, 0] > 0).all()


# ----------------------------------------------------------------------------------------------------- diversity


@pytest.mark.parametrize("kind", ["orthogonal", "decorrelated"])
def test_diversity_equals_the_loop(kind):
    vectors = torch.randn(5, 7, dtype=torch.float64)
    rows = vectors.tolist()
    if kind == "decorrelated":
        rows = [[v - sum(row) / 7 for v in row] for row in rows]
    total = 0.0
    for i in range(5):
        for j in range(5):
            if i != j:
                dot = sum(a * b for a, b in zip(rows[i], rows[j], strict=True))
                total += dot**2 / (sum(a * a for a in rows[i]) * sum(b * b for b in rows[j]))
    assert L.expert_diversity_loss(vectors, kind=kind).item() == pytest.approx(total / 20, rel=1e-10)


def test_known_values_of_diversity():
    assert L.expert_diversity_loss(3 * torch.eye(4)).item() == 0
    assert L.expert_diversity_loss(torch.tensor([[1.0, 2.0], [-2.0, -4.0]])).item() == pytest.approx(1)
    shifted = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]]) + 5
    assert L.expert_diversity_loss(shifted, kind="decorrelated").item() == pytest.approx(0, abs=1e-10)
    assert L.expert_diversity_loss(shifted).item() > 0.5
    assert L.expert_diversity_loss(torch.randn(1, 6)).item() == pytest.approx(0)
    assert L.expert_diversity_loss(torch.zeros(0, 6)).item() == 0


def test_diversity_does_not_grow_with_width_or_scale_and_flattens_weights():
    weights = torch.randn(4, 6, 5, dtype=torch.float64, requires_grad=True)
    flat = L.expert_diversity_loss(weights.flatten(1))
    torch.testing.assert_close(L.expert_diversity_loss(weights), flat)
    torch.testing.assert_close(L.expert_diversity_loss(1000 * weights), flat)
    assert torch.autograd.gradcheck(L.expert_diversity_loss, weights)


def test_diversity_is_float32_under_autocast_and_finite_for_experts_of_zeros():
    vectors = torch.randn(4, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = L.expert_diversity_loss(vectors)
    torch.testing.assert_close(loss, L.expert_diversity_loss(vectors))
    assert L.expert_diversity_loss(vectors.bfloat16()).dtype == torch.float32
    zeros = torch.zeros(3, 4, requires_grad=True)
    loss = L.expert_diversity_loss(zeros)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, zeros)[0].isfinite().all()


def test_diversity_refuses_what_is_no_stack_of_experts():
    with pytest.raises(InputError, match=r"\(4,\)"):
        L.expert_diversity_loss(torch.zeros(4))
    with pytest.raises(ConfigError, match="Did you mean: orthogonal"):
        L.expert_diversity_loss(torch.zeros(4, 2), kind="orthogonl")
