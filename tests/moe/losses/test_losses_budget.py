"""The price on compute between two experts: a float64 reference of its own, and slopes by finite differences."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn

import moezoo
from moezoo.moe import MoELayer, losses, set_progress

TEMPERATURE, THETA = 0.3, 0.45
SCORES = torch.rand(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ARGUMENTS = {
    "batch": {"target": 0.25},
    "sample": {"target": 0.25, "scope": "sample"},
    "batch, costs": {"target": 0.4, "costs": (30, 3)},
    "sample, costs": {"target": 0.4, "costs": (30, 3), "scope": "sample"},
    "batch, annealed": {"target": 0.25, "anneal": 0.8},
    "sample, annealed": {"target": 0.25, "anneal": 0.8, "scope": "sample"},
    "price, annealed": {"costs": (30, 3), "anneal": 0.8},
    "price of a sample": {"scope": "sample"},
}
PROGRESS = 0.2


def reference(logit, scores, of=None, target=None, costs=(1, 0), scope="batch", anneal=0.0):
    """Plain Python: hard shares, moved as far as the soft ones are by going from ``of`` to ``logit`` and ``scores``."""
    done = min(PROGRESS / anneal, 1) if anneal else 1
    big, small = (cost / max(costs) for cost in costs)

    def soft(logit, score):
        return 1 / (1 + math.exp(-(score - 1 / (1 + math.exp(-logit))) / TEMPERATURE))

    old_logit, old_scores = of
    spent = []
    for new_row, old_row in zip(scores, old_scores, strict=True):
        shares = [
            (old >= 1 / (1 + math.exp(-old_logit))) + soft(logit, new) - soft(old_logit, old)
            for new, old in zip(new_row, old_row, strict=True)
        ]
        spent.append(sum(big * m + small * (1 - m) for m in shares) / len(shares))
    mean = sum(spent) / len(spent)
    if target is None:
        return mean * done
    wanted = 1 + (target - 1) * done
    if scope == "batch":
        return (mean - wanted) ** 2
    return sum((each - wanted) ** 2 for each in spent) / len(spent)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_value_and_slopes_are_those_of_the_reference_by_finite_differences(name):
    arguments = ARGUMENTS[name]
    layer = MoELayer(
        2,
        num_experts=2,
        router="score_threshold",
        router_args={"threshold_init": THETA, "temperature": TEMPERATURE},
        expert="modules",
        expert_args={"make": lambda _: nn.Linear(2, 2)},
        aux_weights={"compute_budget": 1.0},
        aux_args={"compute_budget": arguments},
    ).double()
    set_progress(layer, PROGRESS)
    scores = SCORES.clone().requires_grad_()
    layer(torch.randn(4, 6, 2, dtype=torch.float64), scores=scores)
    loss = moezoo.aux_loss(layer)
    loss.backward()
    logit, rows, eps = layer.router.threshold_logit.item(), SCORES.tolist(), 1e-6

    def moved(by_logit=0.0, at=None, by_score=0.0):
        new = [list(row) for row in rows]
        if at is not None:
            new[at[0]][at[1]] += by_score
        return reference(logit + by_logit, new, (logit, rows), **arguments)

    assert loss.item() == pytest.approx(moved(), rel=1e-12)
    by_logit = (moved(by_logit=eps) - moved(by_logit=-eps)) / (2 * eps)
    assert layer.router.threshold_logit.grad.item() == pytest.approx(by_logit, rel=1e-6)
    for i in range(4):
        for j in range(6):
            by_score = (moved(at=(i, j), by_score=eps) - moved(at=(i, j), by_score=-eps)) / (2 * eps)
            assert scores.grad[i, j].item() == pytest.approx(by_score, rel=1e-5, abs=1e-9)


class HalfOfTwo:
    """Stands in for two processes: what this one sums is added to what the other summed at the same place."""

    def __init__(self, other: list[torch.Tensor]):
        self.other, self.mine = other, []

    def sum(self, tensor):
        self.mine.append(tensor.detach())
        total = tensor + (self.other[len(self.mine) - 1] if self.other else 0)
        return total.detach() + 2 * (tensor - tensor.detach())  # the mean over the two processes halves it again


@pytest.mark.parametrize("name", ["batch", "sample, costs", "price, annealed"])
@pytest.mark.parametrize("cut", [3, 4])
def test_two_processes_with_unequal_shares_learn_as_one_with_all_samples(name, cut):
    arguments = {**ARGUMENTS[name], "progress": PROGRESS}
    layer = MoELayer(2, num_experts=2, router="score_threshold", router_args={"temperature": TEMPERATURE}).double()

    def learned(scores, ranks):
        routing = layer.router(scores.new_zeros(scores.numel(), 2), samples=len(scores) or 1, scores=scores.view(-1))
        loss = losses.compute_budget_loss(dataclasses.replace(routing, ranks=ranks), **arguments)
        return loss.detach(), torch.autograd.grad(loss, layer.router.threshold_logit)[0]

    alone = learned(SCORES, None)
    halves = SCORES[:cut], SCORES[cut:]
    heard = [HalfOfTwo([]), HalfOfTwo([])]
    for half, ranks in zip(halves, heard, strict=True):
        learned(half, ranks)
    both = [learned(half, HalfOfTwo(other.mine)) for half, other in zip(halves, heard[::-1], strict=True)]
    for loss, _ in both:
        torch.testing.assert_close(loss, alone[0])
    torch.testing.assert_close((both[0][1] + both[1][1]) / 2, alone[1])
    assert alone[1].abs() > 1e-4
